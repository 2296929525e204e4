"""Wakes readers in other processes and threads when something was committed.

Each reader binds a Unix datagram socket in the folder `bells`; a writer sends one byte to all of them after its commit. A bell
that is missed costs a wait of 200 ms, never a record: readers look again by themselves. Paths go through /proc/self/fd, because
a socket's path may have 108 bytes only and a data directory may lie deep.
"""

from __future__ import annotations

import os
import secrets
import select
import socket
from pathlib import Path

LOOK_AGAIN_S = 0.2


class Bells:
    """The writers' side: rings all."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def ring(self) -> None:
        """Wake every reader; one whose process is gone is removed, one that has rings waiting needs no more."""
        for name in os.listdir(self.fd):
            try:
                self._socket.sendto(b"!", f"/proc/self/fd/{self.fd}/{name}")
            except (ConnectionRefusedError, FileNotFoundError):
                self._remove(name)
            except OSError:
                continue  # its buffer is full: it will wake

    def _remove(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self.fd)
        except FileNotFoundError:
            return  # somebody else removed it

    def close(self) -> None:
        self._socket.close()
        os.close(self.fd)


class Bell:
    """A reader's side: waits to be rung."""

    def __init__(self, bells: Bells) -> None:
        self._folder = bells.fd
        self._name = secrets.token_hex(8)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(f"/proc/self/fd/{self._folder}/{self._name}")
        self._own = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def wait(self, seconds: float) -> bool:
        """Wait to be rung, at most `seconds`; true when `wake` was called in this process."""
        ready, _, _ = select.select([self._socket, self._own[0]], [], [], seconds)
        woken = False
        for end in ready:
            woken |= end is self._own[0]
            try:
                while end.recv(64):
                    pass
            except BlockingIOError:
                continue  # drained
        return woken

    def wake(self) -> None:
        """Any thread."""
        try:
            self._own[1].send(b"!")
        except OSError:
            return  # it is awake already, or closed

    def close(self) -> None:
        try:
            os.unlink(self._name, dir_fd=self._folder)
        except OSError:
            pass  # a writer took it for dead, or the folder is gone
        self._socket.close()
        for end in self._own:
            end.close()
