"""What a row may do to the processes around it: end its worker, or the node above it, before or after the reply."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time

REPLY_TAKES_S = 0.003
"""Longer than a worker takes from the end of pipeline code to the last byte of its reply."""


def do_harm(kind: str, mark: str) -> None:
    """Do what a row asks for; with a `mark` (a file) it happens once, in the first process that makes the file."""
    if mark and not _first(mark):
        return
    match kind:
        case "exit":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            ctypes.string_at(0)
        case "node before reply":
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(0.2)
        case "node after reply":
            node = os.getppid()
            threading.Thread(target=lambda: (time.sleep(REPLY_TAKES_S), os.kill(node, signal.SIGKILL)), daemon=True).start()
        case "announce":
            pass


def _first(mark: str) -> bool:
    try:
        with open(mark, "x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return False
    return True
