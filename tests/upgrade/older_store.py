"""Runs under the Python of an older version: opens a store as that version's node and lives one run in it.

`python older_store.py URL RUN`: prints, as JSON, the store's id, the models it found, and how the run ended; or the error's code.
"""

from __future__ import annotations

import json
import sys

from millstream_server.adapters.sql import SqlStore
from millstream_server.core.errors import Unavailable
from millstream_server.core.log import Outgoing
from millstream_server.core.model import ModelState, ModelVersion, SignedArtifact, add_version
from millstream_server.core.run import NewRun, RunRequest
from millstream_server.core.store import NodeRow, RunEnd


def live(url: str, name: str) -> dict[str, object]:
    """Submit, claim, renew and end one run, with a further version of the model `acme.anomaly`."""
    store = SqlStore.open(url, create=True)
    found = [(model.key, model.champion) for model in store.models()]
    new = NewRun(run=name, tenant="acme", idempotency_key=name, params=b"{}", pipeline="train", package="anomaly", model="anomaly")
    request = RunRequest("log-1", "ml.pipeline.input", 0, hash(name) % 1_000_000, 1_000, name, "replies", b"acme", b"{}", ())
    store.submit_run(new, request, lambda run, _: [Outgoing("answers", run.state.encode())], 1_000)
    run = store.claim_run("older", {"anomaly": ("1.0.0", "1.0.0+abc", "3.11", "10c4")}, 10.0, 2_000)
    assert run is not None
    assert run.run == name
    assert store.renew_run(name, run.attempt, 10.0, 2_500) is not None
    state = store.model("acme", "anomaly") or ModelState("acme", "anomaly")
    artifact = SignedArtifact(manifest="{}", signature="c2ln", key_id="00ff")
    number = state.next_version
    version = ModelVersion(number, "anomaly", "1.0.0", "1.0.0+abc", name, run.attempt, f"acme.anomaly/{name}", artifact, 3_000, {}, "{}", 1)
    ended = store.end_attempt(
        name, 1, RunEnd("succeeded", model=add_version(state, version)), lambda run, _: [Outgoing("answers", b"x")], 3_000
    )
    store.write_node(NodeRow("older", "i", 3_000, b"{}"))
    assert store.take_lease("outbox", "older", 1.0, 3_000) in (True, False)
    store.close()
    return {"store": store.store_id, "found": found, "ended": ended, "version": number}


try:
    said = live(*sys.argv[1:])
except Unavailable as error:
    said = {"code": error.code}
sys.stdout.write(json.dumps(said) + "\n")
