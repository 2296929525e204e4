"""Where tests in another language ask for brokers: one line of text to a loopback port, one line back.

start       start a broker of the tests' own, or start it again    -> its HOST:PORT
stop        SIGTERM to it, and wait                                 -> stopped
kill        SIGKILL                                                 -> killed
anything    that fails                                              -> error: the reason
"""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blackbox.java import KafkaNotPrepared
from blackbox.kafka import Broker, BrokerFailed


class Desk:
    """Keeps one broker and does with it what it is told; one caller at a time."""

    def __init__(self, folder: Path) -> None:
        self._broker = Broker(folder)
        self._lock = threading.Lock()

    def ask(self, line: str) -> str:
        """Do what a line says and return the answer's line."""
        with self._lock:
            try:
                return self._do(line)
            except (KafkaNotPrepared, BrokerFailed, ValueError) as failed:
                return "error: " + str(failed).replace("\n", " | ")

    def close(self) -> None:
        self._broker.kill()

    def _do(self, line: str) -> str:
        match line:
            case "start":
                self._broker.start()
                return self._broker.bootstrap
            case "stop":
                self._broker.stop()
                return "stopped"
            case "kill":
                self._broker.kill()
                return "killed"
            case _:
                raise ValueError(f"the desk knows start, stop and kill, not {line!r}")


@contextmanager
def open_desk(folder: Path) -> Iterator[int]:
    """Serve a desk, whose broker lives in a folder, on a free loopback port, which is yielded; its broker ends with it."""
    desk = Desk(folder)

    class Visit(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                self.wfile.write(desk.ask(line.decode().strip()).encode() + b"\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Visit) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
            desk.close()
