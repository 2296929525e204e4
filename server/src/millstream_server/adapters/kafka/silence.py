"""A cluster that does not answer, or does not let this client in, told in one sentence whoever asked it.

Many rooms of a node ask the cluster, and each would say in its own words that it got no answer. Why there is none, librdkafka
says beside the calls: a call that waits for a broker which refuses the password ends like one that waits for a broker which is
away. So what clients hear is kept here, and looked at when a call got no answer.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Sequence
from typing import Protocol

from confluent_kafka import KafkaError, KafkaException

from millstream_server.adapters.kafka.errors import CREDENTIALS, ENCRYPTION, SILENT, error_of, translated
from millstream_server.core.errors import LogUnavailable, MillstreamError

HEARD_S = 30.0
"""How long a refusal is believed; a client that is refused hears it again every few seconds."""

PROBE_S = 1.0
"""How long it is waited for an answer before a call without one is put down to a silent cluster."""

_DETAIL = re.compile(r"^\S+://\S+: (?:SASL authentication error: )?|\s*\(after \d+ms in state \w+\)$")
"""What changes from one try to the next: which broker of the cluster, and after how long."""


class Client(Protocol):
    """Any client of confluent-kafka."""

    def poll(self, timeout: float) -> object: ...

    def list_topics(self, *, timeout: float) -> object: ...


class Silence:
    """Of one connection; any thread."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._lock = threading.Lock()
        self._refusal = ""
        self._code = 0
        self._heard_s = 0.0

    def hear(self, error: KafkaError) -> None:
        """Called by librdkafka while a client is polled."""
        if error.code() in CREDENTIALS | ENCRYPTION:
            with self._lock:
                self._refusal, self._code, self._heard_s = _DETAIL.sub("", error.str()), error.code(), time.monotonic()

    def answered(self, *clients: Client) -> None:
        """A call was answered: what was heard before is over."""
        _hear_all(clients)
        with self._lock:
            self._refusal = ""

    @property
    def refused(self) -> bool:
        """Whether the cluster does not let this client in, as far as was heard."""
        with self._lock:
            return bool(self._refusal) and time.monotonic() - self._heard_s < HEARD_S

    def told(self, *, indeterminate: bool = False) -> LogUnavailable:
        """The error of a call that got no answer."""
        if not self.refused:
            return LogUnavailable(
                f"the Kafka cluster at {self._bootstrap} does not answer",
                mend="start its brokers, or correct kafka.bootstrap: millstream config show",
                indeterminate=indeterminate,
            )
        with self._lock:
            what = "this client's credentials" if self._code in CREDENTIALS else "an encrypted connection"
            return LogUnavailable(
                f"the Kafka cluster at {self._bootstrap} refused {what}: {self._refusal}",
                code="log_refused",
                mend="correct sasl.* and ssl.* in kafka.options: millstream config show",
                indeterminate=indeterminate,
            )

    def failure(
        self, error: KafkaException, client: Client, doing: str, *, where: str = "", indeterminate: bool = False
    ) -> MillstreamError:
        """The error to raise for a call that failed.

        Args:
            error: what it raised.
            client: that made it, and may be used by this thread.
            doing: what was being done, as in "appending records".
            where: topic, group or transactional id.
            indeterminate: it may have been done all the same.
        """
        said = error_of(error)
        if said is None:
            return LogUnavailable(f"{doing}: {error}", where=where, indeterminate=True)
        if said.code() in SILENT and self.silent(client):
            return self.told(indeterminate=indeterminate)
        return translated(said, doing, where=where, indeterminate=indeterminate)

    def silent(self, client: Client) -> bool:
        """Whether the cluster does not answer this client now; one broker of several may be away, and one call may take too long."""
        try:
            client.list_topics(timeout=PROBE_S)
        except KafkaException:
            _hear_all([client])
            return True
        self.answered(client)
        return False


def _hear_all(clients: Sequence[Client]) -> None:
    for client in clients:
        serve_callbacks(client)  # calls `hear`


def serve_callbacks(client: Client) -> None:
    """Let a client call who listens to it. A fatal error, such as that of a fenced producer, it raises here instead: whoever calls it next
    to do something is told the same."""
    with contextlib.suppress(KafkaException):
        client.poll(0)
