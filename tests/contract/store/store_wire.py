"""A wire between a store and its PostgreSQL server that can be cut: at once, or on the word COMMIT, before it arrives or after."""

from __future__ import annotations

import socket
import threading
from typing import Literal

Cut = Literal["", "before the server has it", "before its answer"]


class Wire:
    """Passes bytes between `port` and a server's port, in threads, until it is cut or closed.

    `cut_commit` is a plan for the next COMMIT that a client sends: the wire is cut before the server has it, or when the server
    has answered and before the client sees that. It holds for one COMMIT; `cuts` counts those that were cut.
    """

    def __init__(self, server_port: int) -> None:
        self.cut_commit: Cut = ""
        self.cuts = 0
        self._server_port = server_port
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """End every connection that is open now; new ones pass."""
        for side in tuple(self._open):
            _end(side)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            server = socket.create_connection(("127.0.0.1", self._server_port))
            self._open |= {client, server}
            doomed = threading.Event()
            threading.Thread(target=self._pass_requests, args=(client, server, doomed)).start()
            threading.Thread(target=self._pass_answers, args=(client, server, doomed)).start()

    def _pass_requests(self, client: socket.socket, server: socket.socket, doomed: threading.Event) -> None:
        while data := _receive(client):
            if self.cut_commit and b"COMMIT\0" in data:  # the whole word: a transaction begins with READ COMMITTED
                planned, self.cut_commit = self.cut_commit, ""
                self.cuts += 1
                if planned == "before the server has it":
                    break
                doomed.set()  # its answer ends the connection instead of passing
            if not _send(server, data):
                break
        self._close(client, server)

    def _pass_answers(self, client: socket.socket, server: socket.socket, doomed: threading.Event) -> None:
        while data := _receive(server):
            if doomed.is_set() or not _send(client, data):
                break
        self._close(client, server)

    def _close(self, *sides: socket.socket) -> None:
        for side in sides:
            _end(side)
        self._open -= set(sides)


def _receive(side: socket.socket) -> bytes:
    try:
        return side.recv(65_536)
    except OSError:
        return b""


def _send(side: socket.socket, data: bytes) -> bool:
    try:
        side.sendall(data)
    except OSError:
        return False
    return True


def _end(side: socket.socket) -> None:
    try:
        side.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the other side was first
    side.close()
