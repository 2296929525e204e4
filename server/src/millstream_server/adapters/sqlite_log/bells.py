"""How a waiting reader learns at once that something was committed: a Unix datagram socket for each reader in `bells/`.

The name of a bell is `<process>-<token>-<topic id>.<topic id>...`, so a writer rings only those that read what it wrote. A bell
only saves time: a reader looks at its partitions 5 times a second anyway, so a lost ring delays and never loses.
"""

from __future__ import annotations

import logging
import os
import secrets
import select
import socket
import threading
from collections.abc import Collection, Set
from pathlib import Path

_log = logging.getLogger(__name__)


class Bells:
    """The folder of bells; `ring` may be called from any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sender.setblocking(False)
        self._handle = -1
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            # A socket's address holds 107 bytes and a data directory's path may be longer: this spelling never is.
            self._handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            _log.warning("the folder %s cannot be used, so readers of the log look for news 5 times a second: %s", folder, error)

    def new(self, topic_ids: Collection[int]) -> Bell:
        """Hang up a bell that rings for these topics."""
        name = f"{os.getpid()}-{secrets.token_hex(4)}-{'.'.join(str(number) for number in sorted(topic_ids))}"
        if len(name) > 250:
            name = name[:30].rpartition("-")[0] + "-all"
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            sock.bind(self._address(name))
        except OSError as error:
            sock.close()
            _log.warning("no bell in %s, so this reader looks for news 5 times a second: %s", self._folder, error)
            return Bell(None, None)
        return Bell(sock, self._folder / name)

    def ring(self, topic_ids: Set[int]) -> None:
        """Wake the readers of these topics; removes the bells of processes that died."""
        try:
            names = os.listdir(self._folder)
        except OSError:
            return  # no folder, no bells: every reader is looking by itself
        for name in names:
            if _rings_for(name, topic_ids):
                self._ring_one(name)

    def close(self) -> None:
        self._sender.close()
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _ring_one(self, name: str) -> None:
        try:
            self._sender.sendto(b"\0", self._address(name))
        except ConnectionRefusedError:
            (self._folder / name).unlink(missing_ok=True)  # nobody listens any more: names are never used again
        except OSError:
            pass  # its queue is full, so it wakes anyway; or it was taken down just now; or it is another user's

    def _address(self, name: str) -> str:
        return f"/proc/self/fd/{self._handle}/{name}"


def _rings_for(name: str, topic_ids: Set[int]) -> bool:
    topics = name.rpartition("-")[2]
    return topics == "all" or any(part.isdigit() and int(part) in topic_ids for part in topics.split("."))


class Bell:
    """Where one reader waits."""

    def __init__(self, sock: socket.socket | None, path: Path | None) -> None:
        self._sock = sock
        self._path = path
        self._closing = threading.Lock()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._waits = select.poll()
        self._waits.register(self._event, select.POLLIN)
        self._deaf = select.poll()
        self._deaf.register(self._event, select.POLLIN)
        if sock is not None:
            sock.setblocking(False)
            self._waits.register(sock, select.POLLIN)

    def wait(self, timeout_s: float, *, listen: bool) -> bool:
        """Wait for a ring (only if `listen`), for `wake`, or for the time to pass; whether it was `wake`."""
        ready = (self._waits if listen else self._deaf).poll(max(0, int(timeout_s * 1000 + 0.999)))
        woken = False
        for handle, _ in ready:
            if handle == self._event:
                os.eventfd_read(self._event)
                woken = True
            else:
                self._hush()
        return woken

    def wake(self) -> None:
        """Make a waiting reader, or the next one to wait, go on; any thread."""
        with self._closing:  # a number that was closed may be another file's by now
            if self._event >= 0:
                os.eventfd_write(self._event, 1)

    def close(self) -> None:
        if self._event < 0:
            return
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        if self._sock is not None:
            self._sock.close()
        with self._closing:
            event, self._event = self._event, -1
            os.close(event)

    def _hush(self) -> None:
        assert self._sock is not None
        try:
            while True:
                self._sock.recv(16)
        except BlockingIOError:
            pass  # all rings are taken
