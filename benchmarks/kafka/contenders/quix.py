# mypy: ignore-errors
# Runs in an environment of its own, whose libraries a checker of this repository does not see.
"""Quix Streams: `quix.py exactly-once`. It has no way to take a batch without a window, so predict() is called for each request.

commit_interval is 0.1 s: by its default of 5 s a reader of committed records would wait that long for each result.
"""

import os
import sys

from common import BOOT, GROUP, IN, OUT, predict
from quixstreams import Application

application = Application(
    broker_address=BOOT,
    consumer_group=GROUP,
    auto_offset_reset="earliest",
    processing_guarantee=sys.argv[1],
    loglevel="WARNING",
    commit_interval=0.1,
    state_dir=os.environ["BENCH_STATE"],
    auto_create_topics=False,
    use_changelog_topics=False,
    consumer_poll_timeout=0.05,
    producer_extra_config={"linger.ms": 2, "retry.backoff.ms": 2, "retry.backoff.max.ms": 50},
)
frame = application.dataframe(application.topic(IN, value_deserializer="json"))
frame = frame.apply(lambda r: {"id": r["id"], "pipeline": r["pipeline"], "status": "ok", "result": predict([r["params"]["rows"][0]])})
frame.to_topic(application.topic(OUT, value_serializer="json"))
application.run()
