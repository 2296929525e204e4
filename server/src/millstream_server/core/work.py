"""One request in a node's memory, from intake to its committed result.

Mutable on purpose: a node holds tens of thousands, and each is touched by one thread at a time.
"""

from __future__ import annotations

import msgspec

from millstream_server.core.log import Headers, Record
from millstream_server.core.request import Origin


class Work(msgspec.Struct, gc=False, eq=False):
    """A request being worked on.

    `source_*` is the record that was read (input, or a retry topic), whose offset the result finishes; `origin` the input
    record it answers. `attempts` counts tries already charged; `alone` means it may share no batch. `deadline_ms` is Unix
    milliseconds, 0 for none. `epoch` is when it was read, as the poller counts assignments. `done` is set once an outcome has
    been chosen; whatever comes after that is ignored.
    """

    id: str
    pipeline: str
    tenant: str
    params: bytes
    reply_to: str
    source_topic: str
    source_partition: int
    source_offset: int
    origin: Origin
    value: bytes
    headers: Headers = ()
    attempts: int = 0
    alone: bool = False
    deadline_ms: int = 0
    idempotency_key: str = ""
    size_bytes: int = 0
    load_s: float = 0.0
    done: bool = False
    epoch: int = 0

    @property
    def attempt(self) -> int:
        """The number that pipeline code is told: 1 for the first try."""
        return self.attempts + 1


def held_bytes(record: Record) -> int:
    """Bytes that a record counts for while a node holds it: value and headers, which a caller may make as large."""
    size = len(record.value) if record.value is not None else 0
    for name, value in record.headers:
        size += len(name) + len(value)
    return size
