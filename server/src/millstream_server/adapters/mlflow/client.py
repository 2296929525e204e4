"""The node's side of the mirror: starts the helper when something is to be written, asks it, and ends it.

Called by one thread, but for `close`. A call that passes its deadline ends the helper, whatever it hangs on; the next call starts
another. A helper that nobody asked for a while ends, and so does one whose node is gone: its input ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import selectors
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from millstream_server.adapters.mlflow.frames import LARGEST, LENGTH, Answer, Done, Look, Open, Question, Refused, decode_answer, framed
from millstream_server.core.errors import Failed, Unavailable
from millstream_server.core.mirror import MirroredModel, MirroredRun, Moved, Written

OPEN_S = 120.0
"""The first start of all compiles mlflow and makes a database: 17 s were seen on a machine with both cores taken."""
CALL_S = 60.0
VERSION_S = 30.0
"""For each version of a call on top, whose files may have to be copied."""
IDLE_S = 60.0
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}
"""Of the helper; the two on requests may be set otherwise in the node's environment. By itself mlflow tries again for minutes."""
_SAID_BYTES = 2000
_PASSWORD = re.compile(r"//[^@/]*@")


def installed() -> bool:
    """Whether mlflow and what its database needs are on this machine; nothing is imported."""
    return all(importlib.util.find_spec(name) is not None for name in ("mlflow", "alembic"))


class MlflowMirror:
    """`core.mirror.RegistryMirror` on MLflow.

    Args:
        uri: of an MLflow server, http or https; empty: SQLite and a folder in `folder`.
        folder: for the embedded one's files, and for what the helper says, `helper.log`.
        store_id: whose models these are.
        copies_bytes: see the port; the embedded one copies nothing, its files would be on the same disk twice.
        deadlines_s: of the first answer, of any other one, and what a version adds.
    """

    def __init__(
        self,
        uri: str,
        folder: Path,
        store_id: str,
        *,
        copies_bytes: int = 0,
        idle_s: float = IDLE_S,
        deadlines_s: tuple[float, float, float] = (OPEN_S, CALL_S, VERSION_S),
    ) -> None:
        self._folder = folder
        self._database = None if uri else folder / "mlflow.db"
        self._uri = uri or f"sqlite:///{folder / 'mlflow.db'}"
        self._store_id = store_id
        self._idle_s = idle_s
        self._open_s, self._call_s, self._version_s = deadlines_s
        self._process: subprocess.Popen[bytes] | None = None
        self._used_s = 0.0
        self._closed = False
        self._asking = threading.Lock()
        """Held while the helper is asked: nobody else may close its pipes, whose numbers would be given to other files."""
        self._lock = threading.Lock()
        """Over `_process` and `_closed`, which `close` changes from another thread."""
        self.target = _PASSWORD.sub("//", uri) if uri else str(folder)
        self.target_id = hashlib.sha256(_named(self.target).encode()).hexdigest()[:16]
        self.copies_bytes = copies_bytes if uri else 0
        self.local = not uri

    @property
    def pid(self) -> int:
        process = self._process
        return process.pid if process is not None and process.poll() is None else 0

    def write_run(self, run: MirroredRun) -> None:
        self._ask(run, self._call_s)

    def write_model(self, model: MirroredModel) -> Written:
        return self._ask(model, self._call_s + self._version_s * len(model.versions)).written

    def moved(self) -> list[Moved]:
        """See the port. Of the embedded database only a change of its file is looked into, so the helper need not be there for it."""
        if self._database is None:
            return list(self._ask(Look(), self._call_s).moved)
        present, looked = _print_of(self._database), self._folder / "looked"
        if not present or (looked.is_file() and looked.read_text() == present):
            return []
        found = list(self._ask(Look(), self._call_s).moved)
        if not found:  # else there is something to do, and the file is looked into again after that
            looked.write_text(present)
        return found

    def rest(self) -> None:
        if self._process is not None and time.monotonic() - self._used_s > self._idle_s:
            self._end()

    def close(self) -> None:
        with self._lock:
            self._closed, process = True, self._process
        if process is not None:
            process.kill()
            process.wait()
        if self._asking.acquire(blocking=False):  # else the thread that reads its pipes meets their end, and closes them
            self._end()
            self._asking.release()

    # --- the helper -----------------------------------------------------------------------------------------------------

    def _ask(self, question: Question, deadline_s: float) -> Done:
        """Ask the helper, which is started where there is none.

        Raises:
            Unavailable: mirror_unavailable, it may be done later.
            Failed: mirror_refused, it never will be.
        """
        with self._asking:
            if self.pid == 0:
                self._start()
                places = () if self._database is None else (str(self._database), str(self._folder / "artifacts"))
                self._answer(Open(self._uri, self._store_id, *places), self._open_s)
            return self._answer(question, deadline_s)

    def _answer(self, question: Question, deadline_s: float) -> Done:
        try:
            answer = self._exchange(framed(question), time.monotonic() + deadline_s)
        except TimeoutError:  # before OSError, which it is too
            self._end()
            raise self._unavailable(f"it did not answer within {deadline_s:g} s") from None
        except (OSError, EOFError, msgspec.DecodeError, ValueError) as error:
            self._end()
            raise self._unavailable(self._last_words() or f"the helper ended: {error}") from None
        self._used_s = time.monotonic()
        match answer:
            case Done():
                return answer
            case Refused(message, forever):
                if forever and not isinstance(question, Open):
                    raise Failed("mirror_refused", f"MLflow at {self.target} refused it: {_PASSWORD.sub('//', message)}", where=self.target)
                if isinstance(question, Open):
                    self._end()
                raise self._unavailable(message)

    def _start(self) -> None:
        self._end()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._said.open("wb") as said, self._lock:
                if self._closed:
                    raise self._unavailable("this node is ending")
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-m", "millstream_server.adapters.mlflow.helper"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    env=_SETTINGS | environment,
                    bufsize=0,
                    start_new_session=True,  # Ctrl-C in the terminal is for the node, which ends its helper
                )
        except OSError as error:
            raise self._unavailable(f"its helper cannot be started: {error}") from None
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)

    def _exchange(self, sent: bytes, until_s: float) -> Answer:
        """Write a frame and read one.

        Raises:
            TimeoutError: by `until_s` (monotonic) it was not done.
            EOFError, OSError: the helper is gone.
        """
        process = self._process
        if process is None:
            raise EOFError("it was closed")
        assert process.stdin is not None
        assert process.stdout is not None
        source, sink = process.stdout.fileno(), process.stdin.fileno()
        left, got = memoryview(sent), bytearray()
        while left:
            _wait(sink, selectors.EVENT_WRITE, until_s)
            left = left[os.write(sink, left[: 1 << 16]) :]
        while len(got) < LENGTH.size or len(got) < LENGTH.size + LENGTH.unpack_from(got)[0]:
            _wait(source, selectors.EVENT_READ, until_s)
            some = os.read(source, 1 << 16)
            if not some:
                raise EOFError(f"exit code {process.poll()}")
            got += some
            if len(got) > LARGEST:
                raise ValueError("its answer has no end")
        return decode_answer(bytes(got[LENGTH.size :]))

    def _end(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return
        process.kill()  # everything that it writes may be written again
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    @property
    def _said(self) -> Path:
        return self._folder / "helper.log"

    def _last_words(self) -> str:
        """The last line that a helper wrote before it ended."""
        try:
            lines = self._said.read_bytes()[-_SAID_BYTES:].decode("utf-8", "replace").strip().splitlines()
        except OSError:
            return ""
        return f"its helper ended: {lines[-1]}" if lines else ""

    def _unavailable(self, why: str) -> Unavailable:
        return Unavailable(
            "mirror_unavailable", f"MLflow at {self.target} cannot be written: {_PASSWORD.sub('//', why)}", where=self.target
        )


def _wait(fd: int, event: int, until_s: float) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(fd, event)
        left_s = until_s - time.monotonic()
        if left_s <= 0 or not selector.select(left_s):
            raise TimeoutError


def _print_of(database: Path) -> str:
    """What changes with every change of a file; empty where it is not there."""
    try:
        found = database.stat()
    except FileNotFoundError:
        return ""
    return f"{found.st_mtime_ns} {found.st_size} {found.st_ino}"


def _named(target: str) -> str:
    """A server by host, port and path: it stays the same one with another login."""
    parts = urlsplit(target)
    return f"{parts.hostname}:{parts.port}{parts.path.rstrip('/')}" if parts.hostname else target
