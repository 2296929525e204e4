"""Child processes of builds and installations: watched, cancellable, ended with all their descendants.

Called by the modules of this room, from any thread. Invariant: when `run_child` returns or raises, for whatever reason
(Ctrl-C too), no process of the child's group is alive.
"""

from __future__ import annotations

import ctypes
import os
import platform
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

_POLL_S = 0.1
_GRACE_S = 2.0
_KEPT_BYTES = 1 << 20
_READ_BYTES = 1 << 16

_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_CLASS_IDLE = 3 << 13


class Cancelled(Exception):
    """The caller's event was set; what was begun has been ended and removed."""


class Finished(msgspec.Struct, frozen=True):
    """How a child ended: its exit code (negative: the signal), and the last MiB of each of its streams."""

    code: int
    stdout: str
    stderr: str


def clean_environment() -> dict[str, str]:
    """This process's environment less what would change which Python a tool sees or what that Python does.

    Settings of indexes, proxies and credentials stay: they are the user's way to name a private index.
    """
    unwanted = {"VIRTUAL_ENV", "CONDA_PREFIX", "UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_COMPILE_BYTECODE", "UV_NO_VERIFY_HASHES"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON") and name not in unwanted}
    return {**kept, "UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1", "NO_COLOR": "1"}


def bare_environment() -> dict[str, str]:
    """What pipeline code gets to see when it is imported: paths and language, no credential, and bytecode is written."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ") if name in os.environ}


def at_idle_priority() -> None:
    """Give the calling thread, and every child that it starts from now on, the lowest priority for CPU and disk.

    Linux counts both by thread, and a thread cannot raise them again: call it in a thread of its own.
    """
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:  # elsewhere the low CPU priority lowers the disk priority too, if less
        ctypes.CDLL(None, use_errno=True).syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_CLASS_IDLE)


def run_child(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str],
    cwd: Path | None = None,
    stdin: bytes = b"",
    cancel: threading.Event | None = None,
    timeout_s: float = 3600.0,
    on_line: Callable[[str], None] | None = None,
) -> Finished:
    """Run a command to its end.

    Args:
        command: program and arguments.
        environment: the whole environment of the child.
        cwd: its working directory.
        stdin: what it reads; small, at most one pipe buffer (64 KiB).
        cancel: when set, the child is ended.
        timeout_s: after this it is ended too, and the exit code is -SIGKILL or -SIGTERM.
        on_line: called in this thread with each line of standard error as it comes.

    Raises:
        Cancelled: `cancel` was set.
    """
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=cwd,
        env=dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
    )
    try:
        return _watch(process, stdin, cancel, timeout_s, on_line)
    finally:
        _end_group(process)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def _watch(
    process: subprocess.Popen[bytes], stdin: bytes, cancel: threading.Event | None, timeout_s: float, on_line: Callable[[str], None] | None
) -> Finished:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    kept: dict[int, bytearray] = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    errors = process.stderr.fileno()
    line = bytearray()
    deadline = time.monotonic() + timeout_s
    try:
        process.stdin.write(stdin)
        process.stdin.close()
    except BrokenPipeError:
        pass  # it ended before it read: its exit code tells why
    with selectors.DefaultSelector() as selector:
        for descriptor in kept:
            os.set_blocking(descriptor, False)
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            events = selector.select(_POLL_S)
            for key, _ in events:
                data = os.read(key.fd, _READ_BYTES)
                if not data:
                    selector.unregister(key.fd)
                kept[key.fd] += data
                del kept[key.fd][:-_KEPT_BYTES]
                if key.fd == errors and on_line is not None:
                    line += data
                    *whole, rest = line.split(b"\n")
                    line = bytearray(rest)
                    for each in whole:
                        on_line(each.decode("utf-8", "replace"))
            if cancel is not None and cancel.is_set():
                raise Cancelled
            if time.monotonic() > deadline:
                break
            if not events and process.poll() is not None:
                break  # a descendant still holds the pipes; it is ended with the group
    if process.poll() is None and time.monotonic() > deadline:
        _end_group(process)
    while process.poll() is None:  # the streams are closed but the process lives
        if cancel is not None and cancel.is_set():
            raise Cancelled
        if time.monotonic() > deadline:
            _end_group(process)
        time.sleep(_POLL_S / 10)
    out, err = (kept[stream.fileno()].decode("utf-8", "replace") for stream in (process.stdout, process.stderr))
    return Finished(process.returncode, out, err)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the child and whatever it started; its group outlives it while a descendant does."""
    if process.poll() is None:
        _signal_group(process.pid, signal.SIGTERM)
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            _signal_group(process.pid, signal.SIGKILL)
            process.wait()
    _signal_group(process.pid, signal.SIGKILL)


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass  # all of the group are gone
