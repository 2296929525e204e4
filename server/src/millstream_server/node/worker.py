"""One worker process as the node sees it: started by exec, spoken to in frames, watched by pidfd and socket end.

Lives on the node's event loop; nothing here blocks. What the worker says is handed to a `WorkerListener`. A worker gets a
scrubbed environment, a session of its own and no credential, and is confined as `confinement` says; its standard output and error
come back as log lines.

A confined worker is the grandchild of this process: bubblewrap stands between, outside and inside of the namespace, and all three end
with any one of them. The outer one is watched, because its end comes last and carries the worker's exit code; signals and measurements
aim at the worker.

Longer than other modules: the life of one process, from its start to its last line, on one page.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import msgspec
from millstream import wire

from millstream_server import __version__
from millstream_server.core.batching import Lane
from millstream_server.core.errors import Unavailable
from millstream_server.core.work import Work
from millstream_server.node.allowance import MAX_LINE, MAX_LINES_A_SECOND, MAX_LOGS_A_SECOND, Allowance, bounded
from millstream_server.node.confinement import UNCONFINED, Confinement
from millstream_server.node.model_memory import Shelf
from millstream_server.node.sandbox import SHARED_MEMORY, SHARED_MEMORY_BYTES, TMP

_SOCKET_BUFFER_BYTES = 1 << 20
_MAX_REST_BYTES = 1 << 20

_WEIGHED_AT_ONCE = 4
"""Processes whose shares are asked for on the loop; of more in a thread, and the next look has the answer."""

_BELIEVED_BYTES = 64 << 20

_LOOKS_AT_CHILDREN = 10
"""Every so often, of looks at the memory of a worker in no control group, its children are looked for."""

SOCKET_GRACE_S = 0.5
"""How long a process may live on after its socket closed."""


class Spawn(msgspec.Struct, frozen=True):
    """How to start a worker of one environment."""

    python: Path
    package: str
    version: str
    build_id: str
    folder: Path
    """Working and temporary folder of the process."""
    max_result_bytes: int
    confinement: Confinement = UNCONFINED
    run: bool = False
    """Whether it is for one attempt of a run, which may have the network and leaves files."""


class Batch:
    """One EXECUTE that was sent and not yet answered."""

    __slots__ = ("after_loads", "lane", "number", "sent_s", "started_s", "works")

    def __init__(self, number: int, lane: Lane, works: list[Work], now_s: float, after_loads: int) -> None:
        self.number = number
        self.lane = lane
        self.works = works
        self.sent_s = now_s
        self.started_s = now_s
        """When it became the oldest unanswered one, which is the one that runs (monotonic seconds)."""
        self.after_loads = after_loads
        """How many models the worker was asked to load before it."""


class WorkerListener(Protocol):
    """Who owns a worker: a pool, or a run."""

    def on_ready(self, worker: Worker, seconds: float, error: wire.WireError | None) -> None: ...

    def on_loaded(self, worker: Worker, loaded: wire.Loaded) -> None: ...

    def on_results(self, worker: Worker, results: wire.Results) -> None: ...

    def on_message(self, worker: Worker, message: wire.FromWorker) -> None:
        """LOG, METRIC, STEP or CALL."""

    def on_line(self, worker: Worker, line: str) -> None:
        """One line that the process wrote to its standard output or error past the SDK."""

    def on_exit(self, worker: Worker, cause: str) -> None:
        """The process is gone; called once, after everything it said was handed over."""


class Worker(asyncio.Protocol):
    """A started worker process. `kill_cause`, when set before it dies, tells why the node ended it."""

    def __init__(
        self, spawn: Spawn, listener: WorkerListener, loop: asyncio.AbstractEventLoop, spoken: Mapping[str, wire.WireVersion] = wire.SPOKEN
    ) -> None:
        self.spawn = spawn
        self.listener = listener
        self.hello: wire.Hello | None = None
        self.ready = False
        self.batches: deque[Batch] = deque()
        self.shelf = Shelf()
        self.loads_sent = 0
        self.loading: deque[tuple[str, int]] = deque()
        """Models whose LOAD was sent and not answered; the first is loaded when nothing that was sent before it is left."""
        self.turned_s = time.monotonic()
        """When the worker began with what it does now (monotonic seconds)."""
        self.exclusive = False
        self.draining = False
        self.kill_cause = ""
        self.unspoken = ""
        """Why this node cannot speak to the worker's SDK; a further worker of the same environment would be no other."""
        self.started_s = time.monotonic()
        self._loop = loop
        self._splitter = wire.Splitter()
        self._spoken = spoken
        self._version: wire.WireVersion | None = None
        """The wire version of the worker's SDK; None until it has said HELLO, and what is to be sent waits in `_unsent`."""
        self._unsent: list[wire.FromNode] = []
        self._transport: asyncio.Transport | None = None
        self._output = bytearray()
        self._lines = Allowance(MAX_LINES_A_SECOND, lambda said: self.listener.on_line(self, said))
        self._logs = Allowance(MAX_LOGS_A_SECOND, lambda said: self.listener.on_line(self, said))
        self._exited = False
        self._closed = False
        self._reported = False
        self._shown: dict[tuple[str, int], Path] = {}
        self._loading_folders: deque[Path] = deque()
        self._leaving: list[tuple[int, Path]] = []
        """Files of models that it was told to forget, and the last batch before that: they are needed until that is answered."""
        self._weighing: asyncio.Future[bool] | None = None
        self._looks = 0
        self.own = spawn.confinement.own(spawn.folder, run=spawn.run)
        self._process, self._socket = self._start()
        self.pid = self._process.pid
        """Of the worker itself; where it is confined, of what starts it until it has said HELLO."""
        stdout = self._process.stdout
        assert stdout is not None
        self._stdout_fd = stdout.fileno()
        os.set_blocking(self._stdout_fd, False)
        self._pidfd = os.pidfd_open(self._process.pid)
        loop.add_reader(self._stdout_fd, self._read_output)
        loop.add_reader(self._pidfd, self._on_process_end)
        self._connecting = loop.create_task(self._connect())

    @property
    def in_flight(self) -> int:
        """Rows sent and not yet answered."""
        return sum(len(batch.works) for batch in self.batches)

    @property
    def is_loading(self) -> bool:
        """Whether the worker loads a model now, rather than running a batch that was sent before."""
        return bool(self.loading) and (not self.batches or self.batches[0].after_loads > self.loads_sent - len(self.loading))

    @property
    def is_confined(self) -> bool:
        """Whether it sees only what it was given: paths of the node mean nothing to it."""
        return self.spawn.confinement.sandbox is not None

    async def show(self, folder: Path) -> Path:
        """Let the worker read the files of a flat folder; where it finds them.

        Raises:
            Unavailable: no_space, they cannot be put where it sees them.
        """
        if not self.is_confined:
            return folder
        try:
            return await asyncio.to_thread(self.own.show, folder)
        except OSError as error:
            if self._exited:
                return folder  # nobody reads them: its folder is gone with it
            raise Unavailable("no_space", f"the files of a model cannot be shown to worker {self.pid}: {error}") from error

    def load(self, key: str, version: int, folder: Path, expected_bytes: int, *, in_reserve: bool = False) -> None:
        """Ask for a model version whose files it can see; batches that are sent later are run after it."""
        self.shelf.load((key, version), expected_bytes, 0.0 if in_reserve else time.monotonic())
        if not self.loading and not self.batches:
            self.turned_s = time.monotonic()
        self.loads_sent += 1
        self.loading.append((key, version))
        self._loading_folders.append(folder)
        self._shown[key, version] = folder
        self.send(wire.Load(key, version, str(folder)))

    def unload(self, key: str, version: int) -> None:
        """Have a model version forgotten, after the batches that were sent before."""
        if self.shelf.unload((key, version)):
            self.send(wire.Unload(key, version))
            self._leaving.append((self.batches[-1].number if self.batches else 0, self._shown.pop((key, version))))
            self._hide_left()

    def _hide_left(self) -> None:
        """Hide the files that nothing which was sent needs any more."""
        begun = self.batches[0].number if self.batches else None
        left = [(last, folder) for last, folder in self._leaving if folder not in self._loading_folders and (begun is None or begun > last)]
        for one in left:
            self._leaving.remove(one)
            self._loop.run_in_executor(None, self.own.hide, one[1])  # a folder may hold a lot

    def send(self, *messages: wire.FromNode) -> None:
        """Queue frames to the worker in one write; what is sent to one that is gone is dropped (its end is reported apart)."""
        if self._version is None:
            self._unsent += messages
        elif self._transport is not None and not self._transport.is_closing():
            encode = self._version.encode
            self._transport.write(b"".join(wire.frame(encode(message)) for message in messages))

    def kill(self, cause: str) -> None:
        """End the process and whatever it started, now; `cause` is what its requests are told."""
        if not self._exited:
            self.kill_cause = self.kill_cause or cause
            _kill_group(self._process.pid)

    def drain(self) -> None:
        """Ask the worker to end when it has answered what it was sent."""
        self.draining = True
        self.send(wire.Drain())

    def memory_bytes(self) -> int:
        """Memory of the process and of the files in its own /tmp now, 0 when it is gone."""
        return _rss_bytes(self.pid) + self.tmp_bytes()

    def tmp_bytes(self) -> int:
        """What the files in the /tmp and /dev/shm of its sandbox take, which is memory that no process counts as its own."""
        if not self.is_confined or self.hello is None:
            return 0
        taken_bytes = 0
        for path, most_bytes in ((TMP, self.spawn.confinement.confines.tmp_bytes), (SHARED_MEMORY, SHARED_MEMORY_BYTES)):
            with contextlib.suppress(OSError):  # it is just ending, or this system shows nobody the root of others
                said = os.statvfs(f"/proc/{self.pid}/root{path}")
                taken_bytes += min(most_bytes, (said.f_blocks - said.f_bfree) * said.f_frsize)
        return taken_bytes

    def believed_bytes(self, said_bytes: int) -> int:
        """What it says that it holds, as far as that can be: it may have begun with the next model since, or given back the last one."""
        seen_bytes = _rss_bytes(self.pid)
        return max(seen_bytes // 2, min(said_bytes, 2 * seen_bytes + _BELIEVED_BYTES)) + self.tmp_bytes()

    def exceeds(self, limit_bytes: int) -> bool:
        """Whether the process, all that it started, and the files in its own /tmp take more memory. What it started is looked for now and
        then only, where no control group tells of it."""
        group = self.own.group
        self._looks += 1
        if group is None and self._looks % _LOOKS_AT_CHILDREN:
            return self.memory_bytes() > limit_bytes
        left_bytes = limit_bytes - self.tmp_bytes()
        pids = group.pids() if group is not None else _family(self._process.pid)
        if sum(map(_rss_bytes, pids)) <= left_bytes:
            return False
        # What forked processes share counts for each of them first; only where that is too much is it asked for by shares, which is slow.
        if len(pids) <= _WEIGHED_AT_ONCE:
            return _share_more(pids, left_bytes)
        weighing, self._weighing = self._weighing, None
        if weighing is None:
            weighing = self._loop.run_in_executor(None, _share_more, pids, left_bytes)
        if not weighing.done():
            self._weighing = weighing
            return False
        return weighing.result()

    # --- asyncio.Protocol ---------------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        await self._loop.create_unix_connection(lambda: self, sock=self._socket)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]  # uvloop's transport has the methods, not the base class

    def data_received(self, data: bytes) -> None:
        try:
            bodies = self._splitter.feed(data)
            if self._version is None and bodies and not self._open(wire.read_opening(bodies[0])):
                return
            version = self._version
            messages = [version.decode(body) for body in bodies] if version is not None else []
        except (wire.FrameTooLarge, msgspec.DecodeError) as error:
            of = f" of wire {self._version.name}" if self._version is not None else ", which begins with HELLO"
            self.kill(f"it broke the protocol{of}: {error}")
            return
        for message in messages:
            try:
                self._take(message)
            except Exception as error:  # a defect of ours: the transport would swallow it, and the requests with it
                self._loop.call_exception_handler({"message": f"worker {self.pid} said {type(message).__name__}", "exception": error})

    def _open(self, opening: wire.Opening) -> bool:
        """Find how this worker speaks, and send what waited for that; false where this node does not speak so."""
        self._version = self._spoken.get(opening.wire)
        if self._version is None:
            self.unspoken = (
                f"its SDK {opening.sdk} speaks wire {opening.wire}; this node, millstream {__version__}, speaks {', '.join(self._spoken)}"
            )
            self.kill(self.unspoken)
            return False
        if self._unsent:
            self.send(*self._unsent)
            self._unsent.clear()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        # A worker without its socket can answer nothing more. Its own end, if it is ending, comes first: it tells the cause.
        self._loop.call_later(SOCKET_GRACE_S, self.kill, "it closed its socket")
        self._report_end()

    def _take(self, message: wire.FromWorker) -> None:
        match message:
            case wire.Results():
                self.turned_s = time.monotonic()
                self.listener.on_results(self, message)
                self._hide_left()
            case wire.Hello():
                self._check_hello(message)
            case wire.Ready():
                self.ready = message.error is None
                self.listener.on_ready(self, message.seconds, message.error)
            case wire.Loaded():
                told = (message.model, message.version)
                if not self.loading or self.loading[0] != told:  # perhaps another package's, which it may not judge
                    self.kill("it answered for a model that it was not asked to load")
                    return
                self.turned_s = time.monotonic()
                self.loading.popleft()
                self._loading_folders.popleft()
                self._hide_left()
                self.listener.on_loaded(self, message)
            case wire.Bye():
                self.draining = True
            case wire.Log():
                if self._logs.passing(1):
                    self.listener.on_message(self, bounded(message))
            case _:
                self.listener.on_message(self, message)

    def _check_hello(self, hello: wire.Hello) -> None:
        self.hello = hello
        if self.is_confined:
            self.pid = _innermost(self._process.pid)
            _be_first_to_die(self.pid)
        if hello.build_id != self.spawn.build_id:
            self.kill(f"it says it is build {hello.build_id}, expected {self.spawn.build_id}")

    # --- output and end of the process --------------------------------------------------------------------------------

    def _read_output(self) -> None:
        try:
            data = os.read(self._stdout_fd, 65536)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._stdout_fd)
            return
        self._output += data
        *lines, rest = self._output.split(b"\n")
        if len(rest) > MAX_LINE:
            lines, rest = [*lines, rest], bytearray()
        self._output = bytearray(rest)
        self._tell_lines([bytes(line) for line in lines])

    def _on_process_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._process.wait()  # reaps at once: the pidfd is readable only when the process is a zombie
        self._exited = True
        _kill_group(self._process.pid)  # what it started must not outlive it
        # What it said last comes before the end of its socket. A process that it started may hold the socket open: not for long.
        self._loop.call_later(SOCKET_GRACE_S, self._close_socket)
        if self._connecting.done():
            self._report_end()
        else:
            self._connecting.add_done_callback(lambda _: self._report_end())

    def _close_socket(self) -> None:
        if self._transport is not None:
            self._transport.abort()  # calls connection_lost, unless that was called before
        else:
            self._closed = True
            self._report_end()

    def _report_end(self) -> None:
        """Tell the listener once both the process and its socket are gone, so that no answer already sent is missed."""
        if self._reported or not (self._exited and self._closed):
            return
        self._reported = True
        self._read_rest()
        stdout = self._process.stdout
        if stdout is not None:
            self._loop.remove_reader(self._stdout_fd)
            stdout.close()
        if not self.own.kept:
            self._loop.run_in_executor(None, self.own.remove)
        self.listener.on_exit(self, self.kill_cause or self._death())

    def _death(self) -> str:
        code = self._process.returncode
        if self.is_confined and code > _SIGNALLED:
            code = _SIGNALLED - code  # bubblewrap tells the worker's signal as shells do
        said = _death(code, drained=self.draining)
        refused = self.own.group.refused() if self.own.group is not None else 0
        limit = self.spawn.confinement.confines.processes
        return f"{said}; {refused} processes beyond the limit of {limit} were refused to it" if refused else said

    def _read_rest(self) -> None:
        while len(self._output) < _MAX_REST_BYTES:  # a process that it started may go on writing
            try:
                data = os.read(self._stdout_fd, 65536)
            except OSError:
                break  # nothing more to read, or closed
            if not data:
                break
            self._output += data
        self._tell_lines([bytes(line) for line in self._output.split(b"\n") if line])
        self._output.clear()

    def _tell_lines(self, lines: list[bytes]) -> None:
        """Hand lines over, of each second only so many: one that writes without end must not hold up the node."""
        passing = lines[: self._lines.passing(len(lines))]
        for line in passing:
            self.listener.on_line(self, line[:MAX_LINE].decode("utf-8", "replace"))

    def _start(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        spawn = self.spawn
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER_BYTES)
        ours.setblocking(False)
        home = Path(TMP) if self.is_confined else spawn.folder
        command = [str(spawn.python), "-I", "-m", "millstream.worker", "--fd", str(theirs.fileno()), "--package", spawn.package]
        command += ["--max-result-bytes", str(spawn.max_result_bytes)]
        try:
            process = subprocess.Popen(
                spawn.confinement.command(command, spawn.python, self.own, run=spawn.run),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                cwd=spawn.folder,
                env=scrubbed_environment(spawn.python, home),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            self.own.remove()
            raise
        finally:
            theirs.close()
        return process, ours


_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SIGNALLED = 128


def _rss_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as statm:
            return int(statm.read().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0  # it ended between two looks


def _be_first_to_die(pid: int) -> None:
    """Have the kernel end a worker before others when memory runs out; it cannot ask for that itself where its /proc is read-only."""
    with contextlib.suppress(OSError):  # it is just ending
        Path(f"/proc/{pid}/oom_score_adj").write_text("900")


def _family(pid: int) -> list[int]:
    """A process and its living descendants; a confined worker's all descend from what confines it, whatever they do."""
    family = [pid]
    for one in family:
        try:
            for task in os.listdir(f"/proc/{one}/task"):
                family += map(int, Path(f"/proc/{one}/task/{task}/children").read_text().split())
        except OSError:
            continue  # it has just ended; what it started is its parent's now
    return family


def _share_bytes(pid: int) -> int:
    """Resident memory, a page that n processes share counted as 1/n page; all of it where the kernel does not tell."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return _rss_bytes(pid)


def _share_more(pids: list[int], limit_bytes: int) -> bool:
    """Whether processes have more memory together, what they share counted once. Milliseconds a process."""
    return sum(map(_share_bytes, pids)) > limit_bytes


def _innermost(pid: int) -> int:
    """The last of a chain of only children: the worker behind what confines it. It has said HELLO and nothing else yet."""
    while True:
        try:
            children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except FileNotFoundError:
            return pid  # it is just ending, which is told apart
        if len(children) != 1:
            return pid
        pid = children[0]


def scrubbed_environment(python: Path, folder: Path) -> dict[str, str]:
    """What a worker may know of its surroundings: no credential, no setting of the node. One thread a maths library: a node
    runs several workers, and each of them taking all cores makes every one slower."""
    return {
        "PATH": f"{python.parent}:/usr/bin:/bin",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        # Fixed, or glibc raises it after each large block that is freed, and the memory of unloaded models never comes back.
        "MALLOC_TRIM_THRESHOLD_": "131072",
    }


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # nobody of the group is left


def _death(code: int, *, drained: bool) -> str:
    """Say what ended a process, for a reader."""
    if drained and code == 0:
        return "it ended as it was told"
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = " (out of memory, or killed by hand)" if -code == signal.SIGKILL else ""
        return f"it was ended by {name}{hint}"
    return f"it exited with code {code} while it should have run"
