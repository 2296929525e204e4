"""A real PostgreSQL server for tests: in a folder of its own, on a free loopback port, to stop, kill, freeze and start again.

The server is a child of the process that starts it and ends with it, whatever ends that (parent-death signal), so start it from
a thread that lives as long as the server shall. PostgreSQL refuses root: started by root it runs as `nobody`.

`python -m blackbox.postgres` looks for the server's programs, installs them where it may, or says the one command and fails.
"""

from __future__ import annotations

import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

import psycopg

from blackbox.processes import process, tree

ADMIN, USER, PASSWORD = "postgres", "millstream", "secret: 4/2 @home"
"""The superuser, the plain user that owns the tests' databases, and the password of both (every character that needs quoting)."""

INSTALL = "apt-get install --no-install-recommends --yes postgresql"
START_TIMEOUT_S, STOP_TIMEOUT_S = 60.0, 30.0

_FOLDER = re.compile(r"millstream-postgres-(?P<pid>\d+)-(?P<start>\d+)-.*")
_PORTS = range(20_000, 30_000)  # below the ports that the kernel gives to outgoing connections, so a stopped server keeps its own
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",  # files survive every signal that tests send; only a power cut would need it
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "64MB",
    "shared_buffers": "16MB",
    "max_connections": "90",
    "jit": "off",
    "log_checkpoints": "off",
}


class PostgresMissing(Exception):
    """The programs of the server are not on this machine; the message holds the command that installs them."""

    def __init__(self) -> None:
        super().__init__(f"PostgreSQL's server is not on this machine; run as root: {INSTALL}")


def programs() -> Path:
    """The folder of `initdb` and `postgres`: of the newest version that the system packages, or the one on PATH.

    Raises:
        PostgresMissing: there is none.
    """
    packaged = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: _version(folder.parent.name), reverse=True)
    on_path = shutil.which("initdb")
    for folder in (*packaged, *([Path(on_path).resolve().parent] if on_path else [])):
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise PostgresMissing


@dataclass
class Postgres:
    """One server. It is not running until `start`; `close` ends it and removes its folder.

    Args:
        settings: of the server, over those that make tests quick.
    """

    settings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._programs = programs()
        sweep()
        self.folder = _new_folder()
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self._has_user = False
        self._initialise()

    def __enter__(self) -> Postgres:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- its life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it, and wait until it takes connections; after a kill it first recovers.

        Raises:
            RuntimeError: it ended, or took too long; the message holds the end of its log.
        """
        words = [f"-c{name}={value}" for name, value in (_SETTINGS | self.settings).items()]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_as_server_user(dying=True), str(self._programs / "postgres"), "-D", str(self._data), "-p", str(self.port), *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C in the terminal is for the tests
            )
        try:
            self._wait_ready(self._process)
        except BaseException:
            self._process.kill()
            raise

    def stop(self) -> None:
        """Stop it as an operator does: clients are cut off, what was committed is written."""
        self._signal(signal.SIGINT)
        self._wait_ended()

    def kill(self) -> None:
        """SIGKILL to all its processes at once, as if the machine had crashed with its disk intact."""
        self.freeze()  # so that no process is made while the others are killed
        family = tree(self.pid)
        for one in family:
            _kill(one.pid, signal.SIGKILL)
        self._wait_ended()
        while any((found := process(one.pid)) is not None and found.state != "Z" for one in family):
            time.sleep(0.01)  # a server that starts while one of them still holds the shared memory would refuse to

    def restart(self) -> None:
        self.stop()
        self.start()

    def freeze(self) -> None:
        """SIGSTOP to all its processes: the kernel still takes connections and bytes, nobody answers."""
        for _ in range(2):  # twice, because the first round may have met a process that was being made
            for one in tree(self.pid):
                _kill(one.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for one in tree(self.pid):
            _kill(one.pid, signal.SIGCONT)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.thaw()
            self._signal(signal.SIGQUIT)
            self._wait_ended()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the server was not started")
        return self._process.pid

    def words(self) -> str:
        """The end of the server's log."""
        return self._log.read_text(errors="replace")[-3000:] if self._log.exists() else ""

    # --- its databases --------------------------------------------------------------------------------------------------

    def url(self, database: str, *, user: str = USER, password: str = PASSWORD, port: int = 0) -> str:
        """The address of a database; `port` is another one where a proxy stands before the server."""
        login = f"{user}:{quote(password, safe='')}" if password else user
        return f"postgresql://{login}@127.0.0.1:{port or self.port}/{database}"

    def create_database(self, *, options: str = "") -> str:
        """Make an empty database that the plain user owns, and return its address; `options` of CREATE DATABASE."""
        self._databases += 1
        name = f"store_{os.getpid()}_{self._databases}"
        self.execute(f"CREATE DATABASE {name} OWNER {USER} {options}")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Remove a database that `create_database` made, whoever is still connected."""
        self.execute(f"DROP DATABASE IF EXISTS {urlsplit(url).path[1:]} WITH (FORCE)")

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement as superuser, and return its rows."""
        with psycopg.connect(self.url(database, user=ADMIN), autocommit=True, connect_timeout=10) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    # --- inside ---------------------------------------------------------------------------------------------------------

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _log(self) -> Path:
        return self.folder / "server.log"

    def _initialise(self) -> None:
        password = self.folder / "password"
        password.write_text(PASSWORD)
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            for path in (self.folder, password):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        arguments = ["-U", ADMIN, "--pwfile", str(password), "--auth=scram-sha-256", "--no-sync", "--locale=C", "--encoding=UTF8"]
        done = subprocess.run(
            [*_as_server_user(), str(self._programs / "initdb"), "-D", str(self._data), *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise RuntimeError(f"initdb failed: {done.stderr.strip()}")

    def _wait_ready(self, started: subprocess.Popen[bytes]) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        said = ""
        while started.poll() is None and time.monotonic() < deadline_s:
            try:
                if not self._has_user:
                    self.execute(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")
                    self._has_user = True
                self.execute("SELECT 1")
                return
            except psycopg.OperationalError as error:  # not there yet, or recovering
                said = str(error)
                time.sleep(0.02)
        raise RuntimeError(f"the server did not start: {said}\n{self.words()}")

    def _signal(self, number: signal.Signals) -> None:
        _kill(self.pid, number)

    def _wait_ended(self) -> None:
        assert self._process is not None
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            for one in tree(self.pid):
                _kill(one.pid, signal.SIGKILL)
            self._process.wait(STOP_TIMEOUT_S)


def sweep() -> None:
    """Remove what runs left that were killed together with their clean-up, servers that were frozen then included."""
    for folder in Path(tempfile.gettempdir()).glob("millstream-postgres-*"):
        named = _FOLDER.fullmatch(folder.name)
        if named is None:
            continue
        owner = process(int(named["pid"]))
        if owner is not None and owner.start_ticks == int(named["start"]):
            continue
        for pid in _working_in(folder):
            _kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def _new_folder() -> Path:
    """A folder that says whose it is: a process's id alone is given again to others."""
    owner = process(os.getpid())
    assert owner is not None
    return Path(tempfile.mkdtemp(prefix=f"millstream-postgres-{owner.pid}-{owner.start_ticks}-"))


def _working_in(folder: Path) -> list[int]:
    """Processes whose working directory is in a folder, as that of every process of a server is."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").readlink().is_relative_to(folder):
                found.append(int(entry.name))
        except OSError:
            continue  # it has ended, or is somebody else's
    return found


def _as_server_user(*, dying: bool = False) -> list[str]:
    """The words before a command that the server's user runs; `dying`: with a quick shutdown when this thread ends."""
    words = ["setpriv", *(["--pdeathsig", "QUIT"] if dying else [])]
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        words += [f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    return words if len(words) > 1 else []


def _free_port() -> int:
    for port in random.SystemRandom().sample(_PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free port between {_PORTS.start} and {_PORTS.stop}")


def _kill(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it has ended by itself


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def _install() -> bool:
    """Install the server through apt where that is possible; true if it is there now."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    # A package that starts a server of its own on the standard port would surprise whoever only wants to run tests.
    config = Path("/etc/postgresql-common/createcluster.conf")
    if not config.exists():
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text("create_main_cluster = false\n")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    keep = ["-o", "Dpkg::Options::=--force-confold"]  # keeps the file above without asking
    for words in (["apt-get", "update", "--quiet"], [*INSTALL.split(), "--quiet", *keep]):
        subprocess.run(words, env=environment, check=False)
    try:
        programs()
    except PostgresMissing:
        return False
    return True


def main() -> int:
    """Have the server's programs on this machine; 1 where they are missing and may not be installed."""
    try:
        programs()
    except PostgresMissing as missing:
        if not _install():
            sys.stderr.write(f"{missing}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
