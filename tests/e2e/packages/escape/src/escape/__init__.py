"""Tries to get out of its worker: to see, reach, use and break what is not its own.

Each pipeline answers with what it got; one that is stopped raises, or its worker ends. Nothing but the SDK is imported.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import millstream as ms
from millstream import _context, wire

SEEN: list[str] = []
"""Tenants whose requests came to this process."""


@dataclass
class Note:
    """The model."""

    text: str


@ms.training(model="note")
def write_note(run: ms.Run, text: str, host: str = "", port: int = 0, path: str = "", tmp_bytes: int = 0) -> Note:
    """Leave a note; before that, see whether a run reaches the network and what it may read and write."""
    if port:
        run.metric("reached", float(_reaches(host, port)))
    if path:
        run.metric("readable", float(os.path.exists(path)))
    run.metric("pid", float(os.getpid()))
    Path("scrap").write_bytes(b"x" * tmp_bytes)
    return Note(text)


@ms.training(model="scrap")
def ask_oddly(run: ms.Run, model: str, version: str, times: int = 1) -> Note:
    """Ask the node for a model as the SDK never would; what it answers ends the run."""
    for number in range(times - 1):
        say(wire.Call(1_000_000 + number, run.id, "artifact", {"model": model, "version": version}))
    return Note(_context.sink().call(run.id, "artifact", {"model": model, "version": version}))


@ms.inference
def judge(model: str, version: int) -> str:
    """Tell the node that a model of somebody else cannot be loaded."""
    say(wire.Loaded(model, version, 0.1, 1 << 40, wire.WireError("model_load_failed", "it is bad")))
    return "said"


def say(message: object) -> None:
    """Write a frame past the SDK."""
    arguments = Path("/proc/self/cmdline").read_text().split("\0")
    os.write(int(arguments[arguments.index("--fd") + 1]), wire.frame(wire.encode(message)))


@ms.inference(model="note")
def read_note(model: Note) -> str:
    """What a training left."""
    return model.text


@ms.inference
def look(path: str) -> list[str]:
    """Names in a folder, or the beginning of a file."""
    return sorted(os.listdir(path)) if os.path.isdir(path) else [Path(path).read_bytes()[:64].decode("latin-1")]


@ms.inference
def write(path: str, size_bytes: int = 1) -> int:
    """Write a file, in pieces; its size."""
    with open(path, "wb") as file:
        for _ in range(0, size_bytes, 1 << 20):
            file.write(b"x" * min(size_bytes, 1 << 20))
    return os.path.getsize(path)


@ms.inference
def may_write(path: str) -> bool:
    """Open a file, or make one in a folder, as whoever writes it would; what lies there is not changed, so that a hole harms nobody."""
    if os.path.isdir(path):
        os.close(os.open(path, os.O_WRONLY | os.O_TMPFILE))
    else:
        os.close(os.open(path, os.O_WRONLY))
    return True


@ms.inference
def own(what: str) -> str:
    """Paths and facts that only the process itself knows."""
    match what:
        case "environment":
            return sys.prefix
        case "variables":
            return " ".join(sorted(os.environ))
        case "capabilities":
            return next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
        case "module":
            return __file__
        case _:
            return " ".join(sorted(name for name in os.listdir("/proc") if name.isdecimal()))


@ms.inference
def connect(host: str, port: int) -> bool:
    """Reach a port."""
    return _reaches(host, port)


@ms.inference
def kill(pid: int) -> str:
    """End a process."""
    os.kill(pid, 9)
    return "sent"


@ms.inference
def trace(pid: int) -> int:
    """Take control of a process."""
    ptrace_attach = 16
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(ptrace_attach, pid, None, None) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return pid


@ms.inference
def unshare() -> str:
    """Become root of a user namespace, from where more of the kernel is to be reached."""
    clone_newuser = 0x10000000
    libc = ctypes.CDLL(None)
    child = os.fork()  # a process with threads may not
    if child == 0:
        os._exit(0 if libc.unshare(clone_newuser) == 0 else 1)
    _, status = os.waitpid(child, 0)
    if status != 0:
        raise PermissionError("no user namespace")
    return "done"


@ms.inference(timeout_s=20.0)
def fork_bomb(most: int) -> int:
    """Start processes until no more can be started, or there are more than there should be; they stay."""
    libc = ctypes.CDLL(None)
    started = 0
    while started < most:
        child = libc.fork()
        if child == 0:
            libc.setsid()
            while True:
                libc.sleep(600)
        if child < 0:
            return started
        started += 1
    return started


@ms.inference
def memory_bomb(by_children: bool, most_bytes: int, files_bytes: int = 0) -> int:
    """Take memory, more than is allowed: alone, by children that take little each, or with files in /tmp, and wait to be ended."""
    kept: list[bytearray] = []
    if files_bytes:
        for left in filter(Path.is_file, Path("/tmp").iterdir()):  # of tests before, in the same worker: they would leave too little room
            left.unlink()
        Path("/tmp/bomb").write_bytes(bytes(files_bytes))
        kept.append(bytearray(os.urandom(1 << 20)) * (most_bytes >> 20))
        time.sleep(600)
    libc = ctypes.CDLL(None)
    if by_children:
        for _ in range(most_bytes // (24 << 20)):
            if libc.fork() == 0:
                kept.append(bytearray(os.urandom(1 << 20) * 24))
                while True:
                    libc.sleep(600)
        time.sleep(600)
    while len(kept) < most_bytes >> 24:
        kept.append(bytearray(os.urandom(1 << 20) * 16))
    return len(kept)


@ms.inference
def open_files(count: int) -> int:
    """Open so many files."""
    kept: list[int] = []
    try:
        while len(kept) < count:
            kept.append(os.open("/dev/null", os.O_RDONLY))
    finally:
        for descriptor in kept:
            os.close(descriptor)
    return len(kept)


@ms.inference
def remember(tenant: str) -> list[str]:
    """What this process heard before, and its id."""
    SEEN.append(tenant)
    return [*SEEN, str(os.getpid()), os.readlink("/proc/self/ns/pid")]


def _reaches(host: str, port: int) -> bool:
    with socket.create_connection((host, port), timeout=2):
        return True
