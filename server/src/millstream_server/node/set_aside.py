"""Results for reply topics that cannot be written now: kept out of the others' transactions.

A transaction fails as a whole, so a reply topic that a caller named and nobody can write would hold up everybody's results. When
one with reply topics in it fails, their results wait here; whether a topic can be written is tried apart, with a record in a
transaction that is then aborted. When it can, its results go on; after `GIVE_UP_S` they go to the output topic, with the code
`reply_topic_unavailable`. Source: DESIGN §4.6f.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

import msgspec

from millstream_server.core.log import Outgoing
from millstream_server.node.finish import Finish

OWN = "ml.pipeline."
"""How the platform's own topics begin: these are never set aside, their results have nowhere else to go."""

GIVE_UP_S = 30.0
TRY_AGAIN_S = 1.0


class SetAside:
    """Used by the committer's thread, but for its own, which tries topics.

    Args:
        can_write: tries a record, returns why it cannot be written, or "".
        resubmit: gives results back to the committer.
        replace: the record for the output topic in place of one that cannot be written.
        trouble: told what is wrong, "" when nothing is any more.
        failed: told what ended its thread: results would wait in silence for ever.
    """

    def __init__(
        self,
        can_write: Callable[[Outgoing], str],
        resubmit: Callable[[list[Finish]], None],
        replace: Callable[[Outgoing, str], Outgoing],
        trouble: Callable[[str], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._can_write = can_write
        self._resubmit = resubmit
        self._replace = replace
        self._trouble = trouble
        self._failed = failed
        self._lock = threading.Lock()
        self._waiting: dict[str, list[Finish]] = {}
        self._since_s: dict[str, float] = {}
        self._thread: threading.Thread | None = None

    def admit(self, finishes: list[Finish]) -> list[Finish]:
        """The results that may be written now; the others are kept."""
        if not self._since_s:
            return finishes
        with self._lock:
            admitted = []
            for finish in finishes:
                topic = next((record.topic for record in finish.outgoing if record.topic in self._since_s), None)
                if topic is None:
                    admitted.append(finish)
                else:
                    # Its pool is told at once that it waits for no commit of this one, and is not told again.
                    self._waiting[topic].append(msgspec.structs.replace(finish, build_id=""))
        return admitted

    def suspect(self, finishes: Iterable[Finish]) -> bool:
        """A transaction of these failed: set the reply topics among them aside. False where there are none."""
        topics = {record.topic for finish in finishes for record in finish.outgoing if not record.topic.startswith(OWN)}
        with self._lock:
            new = topics - self._since_s.keys()
            for topic in new:
                self._since_s[topic] = time.monotonic()
                self._waiting[topic] = []
            if new and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="reply-topics", daemon=True)
                self._thread.start()
        return bool(new)

    def _run(self) -> None:
        try:
            self._try_topics()
        except BaseException as error:
            self._failed(error)

    def _try_topics(self) -> None:
        while True:
            with self._lock:
                samples = {topic: kept[0] for topic, kept in self._waiting.items() if kept}
                if not self._since_s:
                    self._thread = None
                    return
            for topic, finish in samples.items():
                record = next(record for record in finish.outgoing if record.topic == topic)
                reason = self._can_write(record)
                if not reason:
                    self._release(topic)
                    continue
                self._trouble(f"the reply topic {topic} cannot be written: {reason}")
                if time.monotonic() - self._since_s[topic] > GIVE_UP_S:
                    self._give_up(topic)
            with self._lock:
                # Nobody writes there any more: the next result that does is tried with the others again.
                for topic in [t for t, kept in self._waiting.items() if not kept and time.monotonic() - self._since_s[t] > GIVE_UP_S]:
                    del self._waiting[topic], self._since_s[topic]
            time.sleep(TRY_AGAIN_S)

    def _release(self, topic: str) -> None:
        with self._lock:
            kept = self._waiting.pop(topic, [])
            self._since_s.pop(topic, None)
        self._trouble("")
        self._resubmit(kept)

    def _give_up(self, topic: str) -> None:
        """What has waited long enough goes to the output topic; what comes later waits as long again."""
        with self._lock:
            kept, self._waiting[topic] = self._waiting[topic], []
            self._since_s[topic] = time.monotonic()
        self._resubmit(
            [
                msgspec.structs.replace(
                    finish, outgoing=tuple(self._replace(r, "reply_topic_unavailable") if r.topic == topic else r for r in finish.outgoing)
                )
                for finish in kept
            ]
        )
