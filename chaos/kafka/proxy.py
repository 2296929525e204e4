"""A TCP proxy before one broker that reads enough of Kafka's protocol to act on a named request of a named client.

Brokers advertise its port, so every client of the listener comes through it. It reads of each request its size, key and client
id, and hands the bytes on as they are. A `Trap` waits for one request: it may cut the connection before the broker gets the
request, or let the broker answer and cut before the answer passes, or hold the request while the harness does something.
Source: https://kafka.apache.org/protocol (request header: api_key, api_version, correlation_id, client_id).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

PRODUCE, INIT_PRODUCER_ID, ADD_PARTITIONS, ADD_OFFSETS, END_TXN, TXN_OFFSET_COMMIT = 0, 22, 24, 25, 26, 28
"""Requests of a transactional producer, by their keys in the protocol."""
TRANSACTIONAL = frozenset({PRODUCE, INIT_PRODUCER_ID, ADD_PARTITIONS, ADD_OFFSETS, END_TXN, TXN_OFFSET_COMMIT})

HEADER_BYTES = 10
CHUNK_BYTES = 256 * 1024
LOOK_BYTES = 256
"""The transactional id is the first field of every request of a transaction."""
_ID = re.compile(rb"millstream[A-Za-z0-9_.-]*")

Writer = Literal["results", "claims", "outbox"]
"""The transactional producers of a node: their ids are `millstream.NODE.INSTANCE`, the same with `.claims.GROUP`, and
`millstream.outbox`."""


def writer_of(body: bytes) -> Writer | None:
    """Whose request it is, by the transactional id at the beginning of its body."""
    found = _ID.search(body)
    if found is None:
        return None
    name = found[0].decode()
    return "outbox" if name == "millstream.outbox" else "claims" if ".claims." in name + "." else "results"


@dataclass
class Trap:
    """Acts on the first request of a client after it was set.

    Args:
        client: the client id.
        writer: which of its producers.
        keys: of the requests that it waits for.
        action: `before`: cut, the broker does not get the request; `answer`: the broker gets it, the answer is kept back and the
            connection cut; `hold`: `on_caught` is run first, on a thread, and then the request passes.
        on_caught: see `hold`.
    """

    client: str
    writer: Writer
    keys: frozenset[int]
    action: Literal["before", "answer", "hold"]
    on_caught: Callable[[], object] = lambda: None
    caught: threading.Event = field(default_factory=threading.Event)
    """The request came by."""
    done: threading.Event = field(default_factory=threading.Event)
    """The action is over: the connection is cut (the broker has answered, for `answer`), or the request has passed."""
    key: int = -1


class Proxies:
    """Proxies on one thread, each before one broker. Made before brokers start, because these advertise the ports."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._thread.start()
        self._servers: list[asyncio.Server] = []
        self._lock = threading.Lock()
        self._traps: list[Trap] = []
        self._seen: dict[tuple[str, str, int], int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self, port: int, target: int) -> str:
        """Listen on a port of 127.0.0.1 for the broker behind another one; returns the address to advertise."""
        asyncio.run_coroutine_threadsafe(self._open(port, target), self._loop).result(10)
        return f"127.0.0.1:{port}"

    def set(self, trap: Trap) -> Trap:
        with self._lock:
            self._traps.append(trap)
        return trap

    def drop(self, trap: Trap) -> None:
        """Take a trap away that nothing ran into."""
        with self._lock:
            if trap in self._traps:
                self._traps.remove(trap)

    def seen(self, client: str, writer: Writer, key: int) -> int:
        """How many requests of a key a producer has sent so far."""
        with self._lock:
            return self._seen.get((client, writer, key), 0)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # --- on the loop ------------------------------------------------------------------------------------------------------

    async def _open(self, port: int, target: int) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                await self._connection(reader, writer, target)
            finally:
                self._tasks.discard(task)

        self._servers.append(await asyncio.start_server(serve, "127.0.0.1", port, backlog=256))

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: int) -> None:
        try:
            from_broker, to_broker = await asyncio.open_connection("127.0.0.1", target, limit=CHUNK_BYTES)
        except OSError:
            writer.close()  # the broker is away: so is the proxy
            return
        kept: list[Trap] = []
        """Traps of this connection whose answer is kept back; shared by the two directions."""
        ways = [
            asyncio.ensure_future(self._requests(reader, to_broker, kept)),
            asyncio.ensure_future(_answers(from_broker, writer, kept)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for one in (writer, to_broker):
                one.transport.abort()  # both ends see at once that it is over

    async def _requests(self, reader: asyncio.StreamReader, to_broker: asyncio.StreamWriter, kept: list[Trap]) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                size_and_header = await reader.readexactly(4 + HEADER_BYTES)
                size, key, _, _, length = struct.unpack(">ihhih", size_and_header)
                name = await reader.readexactly(max(0, length))
                client = name.decode(errors="replace")
                left = size - HEADER_BYTES - len(name)
                begin = await reader.readexactly(min(left, LOOK_BYTES)) if key in TRANSACTIONAL else b""
                trap = self._sprung(client, key, begin) if begin else None
                if trap is not None:
                    if trap.action == "before":
                        trap.done.set()
                        return
                    if trap.action == "hold":
                        await asyncio.to_thread(trap.on_caught)
                    else:
                        kept.append(trap)
                to_broker.write(size_and_header + name + begin)
                left -= len(begin)
                while left > 0:
                    part = await reader.readexactly(min(left, CHUNK_BYTES))
                    to_broker.write(part)
                    await to_broker.drain()
                    left -= len(part)
                await to_broker.drain()
                if trap is not None and trap.action == "hold":
                    trap.done.set()

    def _sprung(self, client: str, key: int, begin: bytes) -> Trap | None:
        writer = writer_of(begin)
        if writer is None:
            return None
        with self._lock:
            self._seen[client, writer, key] = self._seen.get((client, writer, key), 0) + 1
            for trap in self._traps:
                if (trap.client, trap.writer) == (client, writer) and key in trap.keys:
                    self._traps.remove(trap)
                    trap.key = key
                    trap.caught.set()
                    return trap
        return None


async def _answers(from_broker: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: list[Trap]) -> None:
    with contextlib.suppress(ConnectionError):
        while part := await from_broker.read(CHUNK_BYTES):
            if kept:  # the next answer on this connection is the one to keep back: a producer's coordinator has one request at a time
                kept[0].done.set()
                return
            writer.write(part)
            await writer.drain()
