"""The worker's end of the socketpair: frames out from any thread, frames in from one reader thread.

Invariant: a frame is written whole or the process ends. When the node's end closes, the process ends at once, whatever pipeline
code is doing: nobody is left to answer.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable

import msgspec

from millstream.wire import FromNode, FromWorker, Log, Splitter, decode_from_node, encode, frame

EXIT_NODE_GONE = 3
"""The node's end of the socket closed: it died, or it has given this worker up."""

EXIT_BAD_FRAME = 4
"""The node sent what is no frame of this wire version."""

_READ_BYTES = 1 << 18


class Link:
    """One socket to the node. After BYE, and in a forked child of pipeline code, log lines go to standard error instead.

    Args:
        fd: the inherited descriptor; it is not passed on to processes that pipeline code starts.
    """

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(True)
        self._socket.set_inheritable(False)
        # Re-entrant: a garbage collection between two lines of `send` may run a finaliser that prints.
        self._lock = threading.RLock()
        self._is_open = True
        os.register_at_fork(after_in_child=self._leave)

    def send(self, message: FromWorker) -> None:
        """Write one message; any thread. Ends the process where the node is gone."""
        data = frame(encode(message))
        with self._lock:
            if self._is_open:
                self._send_all(data)
            elif isinstance(message, Log):
                os.write(2, f"{message.level} {message.logger}: {message.message}\n".encode())

    def send_last(self, message: FromWorker) -> None:
        """Write the last message; what threads and exit handlers of pipeline code say after it is no frame any more."""
        with self._lock:
            self.send(message)
            self._is_open = False

    def read_forever(self, take: Callable[[FromNode], None]) -> None:
        """Hand every message to `take`, on the calling thread, until the node's end closes; then end the process."""
        splitter = Splitter()
        while True:
            try:
                data = self._socket.recv(_READ_BYTES)
            except OSError:
                data = b""
            if not data:
                os._exit(EXIT_NODE_GONE)
            try:
                messages = [decode_from_node(body) for body in splitter.feed(data)]
            except (ValueError, msgspec.MsgspecError) as error:
                os.write(2, f"millstream.worker: the node sent what is no message: {error}\n".encode())
                os._exit(EXIT_BAD_FRAME)
            for message in messages:
                take(message)

    def _leave(self) -> None:
        """In a forked child: the socket is the parent's alone, and its lock may be held by a thread that is not here."""
        self._lock = threading.RLock()
        self._is_open = False
        self._socket.close()

    def _send_all(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError:
            os._exit(EXIT_NODE_GONE)
