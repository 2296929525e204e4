"""`Installer`: from a deployed release to its environment on this node.

Called by the node, from a thread of its own a release. An environment is made as `.tmp-<uuid>` beside its final place:
created, filled from the lock that the release's wheel carries, compared file by file, imported once (which compiles the
bytecode of what it imports), sealed with MANIFEST.json, made read-only, renamed. So a folder that has a build's name and a
MANIFEST.json is complete, whatever was killed when.

More than one process may work on the same folder: a node, and commands by hand. Who makes an environment holds the lock of its
temporary folder, so that nobody sweeps it; who works in one by hand shares its lock, so that nobody removes it. The kernel gives
both back, whatever ends the process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
from millstream import wire

from millstream_server import __version__
from millstream_server.core.errors import Failed, Invalid, Unavailable
from millstream_server.core.index import ReleaseIndex
from millstream_server.core.release import Release
from millstream_server.environments import bytecode, interpreters, probe, releases, venv, wheels
from millstream_server.environments.children import Cancelled, at_idle_priority
from millstream_server.environments.phases import OnPhase, Phases
from millstream_server.shipped import SHIPPED_WHEELS

MANIFEST_FILE = "MANIFEST.json"
_TEMPORARY = ".tmp-"
_FORMAT = 1
_LOCK_TRIES, _LOCK_WAIT_S = 5, 0.02


class Environment(msgspec.Struct, frozen=True):
    """A ready environment: its folder (`sys.prefix` of its workers), its Python program, and the seconds of each phase of its making."""

    prefix: Path
    python: Path
    build_id: str
    seconds: dict[str, float]


class Sealed(msgspec.Struct, frozen=True):
    """MANIFEST.json of an environment; `python` is the interpreter's full version."""

    format: int
    package: str
    version: str
    build_id: str
    wheel_sha256: str
    python: str
    interpreter: str
    files: int
    created_ms: int
    seconds: dict[str, float]


class Installer:
    """Makes, finds and removes the environments of one node.

    Args:
        root: the folder of environments, for this node alone; made when it is missing.
        index: where wheels come from.
        index_arguments: of uv, such as `--index-url URL`, beside those of the index; empty: as uv itself is configured.
        wheelhouse: folder of wheels that environments are made from alone, the release's own among them; no index is asked then.
        idle_priority: let whatever makes an environment have what others leave of CPU and disk.
        confine: the command by which a release's code is imported, and its environment's folder -> the command that is run: it may put
            a sandbox around it.
    """

    def __init__(
        self,
        root: Path,
        index: ReleaseIndex,
        *,
        index_arguments: Sequence[str] = (),
        wheelhouse: Path | None = None,
        idle_priority: bool = True,
        confine: Callable[[Sequence[str], Path], list[str]] = lambda command, prefix: list(command),
    ) -> None:
        self.root = Path(root).absolute()
        self._index = index
        self._index_arguments = tuple(index_arguments)
        self._wheelhouse = wheelhouse
        self._idle_priority = idle_priority
        self._confine = confine

    def sweep(self, *, older_s: float = 0.0) -> list[str]:
        """Remove what an interrupted installation or removal left behind.

        What another process is just making is left to it.

        Args:
            older_s: for a node that runs: what has a temporary name alone, and was not changed for so many seconds, because who has
                just made a folder may not hold its lock yet. 0: all that is not complete.

        Returns:
            Names of the folders that were removed.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        swept = []
        for path in self.root.iterdir():
            with contextlib.suppress(OSError):  # what another user left, or what cannot be read now, is left
                if self._is_left(path, older_s) and not _is_locked(path):
                    venv.remove(path)
                    swept += [path.name] if not path.exists() else []
        return sorted(swept)

    @staticmethod
    def _is_left(path: Path, older_s: float) -> bool:
        if path.name.startswith(_TEMPORARY):
            return path.stat().st_mtime <= time.time() - older_s
        return not older_s and path.is_dir() and _read_seal(path) is None

    def ready(self, build_id: str) -> Environment | None:
        """Return the environment of a build where it is complete and its interpreter is still there, else None."""
        prefix = self.root / build_id
        sealed = _read_seal(prefix)
        python = prefix / "bin" / "python"
        if sealed is None or sealed.build_id != build_id or not python.exists():
            return None
        return Environment(prefix, python, build_id, sealed.seconds)

    def settled(self, build_id: str, *, wait: bool) -> Environment | None:
        """Return the environment of a build as `ready` does, but not one that somebody is just removing.

        Who removes one holds its lock alone from before it asks whether anybody needs it until the name is gone (`remove`). So who
        has written a need for it, and then comes here, either finds it and keeps it, or finds nothing and makes it anew.

        Args:
            wait: for those who hold the lock alone, for as long as they do; else their environment counts as gone.
        """
        handle = _open_folder(self.root / build_id)
        if handle is None:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_SH if wait else fcntl.LOCK_SH | fcntl.LOCK_NB)
            return self.ready(build_id)
        except BlockingIOError:
            return None
        finally:
            os.close(handle)

    def installed(self) -> list[Sealed]:
        """What every complete environment says of itself, the newest first."""
        seals = []
        with contextlib.suppress(FileNotFoundError):
            for path in self.root.iterdir():
                with contextlib.suppress(PermissionError):  # lost+found, or what another user left
                    if (seal := _read_seal(path)) is not None and seal.build_id == path.name:
                        seals.append(seal)
        return sorted(seals, key=lambda seal: seal.created_ms, reverse=True)

    @contextlib.contextmanager
    def hold(self, build_id: str) -> Iterator[int]:
        """Keep an environment from being removed while the context lasts, and longer where a child inherits the descriptor.

        Yields:
            The descriptor that holds its lock.

        Raises:
            Invalid: unknown_environment, it is not there (any more).
        """
        prefix = self.root / build_id
        handle = _open_folder(prefix)
        try:
            if handle is not None:
                fcntl.flock(handle, fcntl.LOCK_SH)
            if handle is None or not prefix.exists() or not os.path.samestat(os.fstat(handle), prefix.stat()):
                raise Invalid("unknown_environment", f"there is no environment of build {build_id}", where=str(self.root))
            yield handle
        finally:
            if handle is not None:
                os.close(handle)

    def is_held(self, build_id: str) -> bool:
        """Whether some process works in the environment of a build by hand now."""
        return _is_locked(self.root / build_id)

    def remove(self, build_id: str, check: Callable[[], None] | None = None) -> int:
        """Remove the environment of a build, in which nothing may run any more.

        Args:
            check: asked last, while nobody can take the environment up: what it raises keeps it.

        Returns:
            The bytes of its files that are given back: those that no other environment or cache shares. 0 where it is not there.

        Raises:
            Invalid: environment_in_use, somebody works in it by hand.
        """
        handle = _open_folder(self.root / build_id)
        if handle is None:
            return 0
        doomed = self.root / f"{_TEMPORARY}{uuid.uuid4().hex}"
        try:
            if not _take_lock(handle):
                raise Invalid(
                    "environment_in_use",
                    f"a command works in the environment of build {build_id}",
                    where=str(self.root / build_id),
                    mend="let it end first: it is a `millstream environments run` or `shell`",
                )
            if check is not None:
                check()
            os.rename(self.root / build_id, doomed)  # from here on nobody takes it for ready
        except FileNotFoundError:
            return 0
        finally:
            os.close(handle)
        freed_bytes = venv.own_bytes(doomed)
        venv.remove(doomed)
        return freed_bytes

    def install(self, release: Release, on_phase: OnPhase | None = None, *, cancel: threading.Event | None = None) -> Environment:
        """Make the environment of a release, or return it where it is ready. Blocks for seconds to minutes.

        Args:
            on_phase: told each phase as it begins: resolve, download, install, verify, compile, probe, seal.
            cancel: set it to give up; children are ended and the unfinished folder is removed.

        Raises:
            Cancelled: `cancel` was set.
            Invalid: not_published, hash_mismatch, no_wheel, import_failed, bad_package.
            Failed: install_failed.
            Unavailable: wire_unknown, no_interpreter, no_uv, no_space, install_failed (the index is out of reach).
        """
        _refuse_unknown_wire(release)
        there = self.settled(release.build_id, wait=True)
        if there is not None:
            return there

        def work(cancel: threading.Event) -> Environment:
            return self._install(release, Phases(on_phase), cancel)

        given = cancel or threading.Event()
        return _in_idle_thread(work, given) if self._idle_priority else work(given)

    def _install(self, release: Release, phases: Phases, cancel: threading.Event) -> Environment:
        self.root.mkdir(parents=True, exist_ok=True)
        temporary = self.root / f"{_TEMPORARY}{uuid.uuid4().hex}"
        try:
            temporary.mkdir()
            with _locked(temporary):
                sealed = self._make(temporary, release, phases, cancel)
                if cancel.is_set():
                    raise Cancelled
                return self._put_in_place(temporary, sealed)
        except OSError as error:
            raise venv.told_by_system(error, f"{release.label} cannot be installed", self.root) from error
        finally:
            phases.end()
            venv.remove(temporary)

    def _make(self, prefix: Path, release: Release, phases: Phases, cancel: threading.Event) -> Sealed:
        manifest = release.manifest
        phases.begin("resolve", release.label)
        interpreter = interpreters.find(manifest.requires_python, manifest.python, wanted_by=release.label)
        wheel = self._fetch(release)
        lock = releases.read_lock(wheel, manifest)
        venv.create(prefix, interpreter, cancel=cancel)
        requirements = prefix / "requirements.txt"
        requirements.write_text(
            f"{lock.rstrip()}\n{manifest.package} @ {wheel.absolute().as_uri()} --hash=sha256:{release.wheel_sha256}\n", encoding="utf-8"
        )
        venv.fill(prefix, requirements, self._sources(), release.label, phases, cancel=cancel)
        phases.begin("verify", release.label)
        files = venv.verify(prefix, cancel=cancel)
        phases.begin("compile", "takes over bytecode that other environments have compiled")
        bytecode.share([*self._siblings(), *_build_environments()], prefix)
        phases.begin("probe", "imports the package, compiles what is not compiled yet")
        probe.ask(
            prefix / "bin" / "python",
            ["-m", "millstream.worker", "--probe", "--package", manifest.package],
            release.label,
            cancel=cancel,
            confine=lambda command: self._confine(command, prefix),
        )
        phases.begin("seal", release.label)
        return Sealed(
            _FORMAT,
            manifest.package,
            manifest.version,
            manifest.build_id,
            release.wheel_sha256,
            interpreter.version,
            interpreter.path,
            files,
            int(time.time() * 1000),
            phases.seconds,
        )

    def _sources(self) -> list[str]:
        """Where uv looks for what the lock names: its hashes decide what is taken, wherever it is found."""
        if self._wheelhouse is not None:
            return ["--no-index", "--offline", "--find-links", str(self._wheelhouse)]
        return ["--find-links", str(SHIPPED_WHEELS), *self._index.install_arguments(), *self._index_arguments]

    def _fetch(self, release: Release) -> Path:
        if self._wheelhouse is not None:
            return self._of_wheelhouse(self._wheelhouse / release.wheel, release)
        wheel, entry = self._index.fetch(release.manifest.package, release.manifest.version)
        if entry.sha256 != release.wheel_sha256:
            raise Invalid(
                "hash_mismatch",
                f"{entry.filename} in the index has SHA-256 {entry.sha256}, but {release.wheel_sha256} was deployed",
                where=str(wheel),
            )
        if wheels.sha256_of(wheel) != release.wheel_sha256:
            raise Invalid(
                "hash_mismatch", f"{wheel.name} as fetched differs from its recorded SHA-256 {release.wheel_sha256}", where=str(wheel)
            )
        return wheel

    def _of_wheelhouse(self, wheel: Path, release: Release) -> Path:
        try:
            sha256 = wheels.sha256_of(wheel)
        except FileNotFoundError:
            raise Invalid(
                "not_published",
                f"the wheelhouse {self._wheelhouse} has no {release.wheel}",
                where=str(wheel),
                mend=f"where the index can be reached: millstream wheelhouse {release.label} DIR; then bring DIR's wheels here",
            ) from None
        if sha256 != release.wheel_sha256:
            raise Invalid(
                "hash_mismatch",
                f"{release.wheel} in the wheelhouse has SHA-256 {sha256}, but {release.wheel_sha256} was deployed",
                where=str(wheel),
            )
        return wheel

    def _siblings(self) -> list[Path]:
        """Complete environments, the newest first."""
        return [self.root / seal.build_id for seal in self.installed()]

    def _put_in_place(self, temporary: Path, sealed: Sealed) -> Environment:
        (temporary / MANIFEST_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(sealed)))
        venv.make_read_only(temporary)
        venv.sync_filesystem(temporary)
        final = self.root / sealed.build_id
        if self.ready(sealed.build_id) is None:
            self.remove(sealed.build_id)  # incomplete, or its interpreter is gone
            try:
                os.rename(temporary, final)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
        ready = self.ready(sealed.build_id)  # ours, or of another thread that was quicker
        if ready is None:
            raise Failed("install_failed", f"{final} is not complete after its installation", where=str(final))
        return ready


def _refuse_unknown_wire(release: Release) -> None:
    """Nothing is installed for a worker that this node could not speak to."""
    if release.manifest.wire not in wire.SPOKEN:
        raise Unavailable(
            "wire_unknown",
            f"{release.label} was built with SDK {release.manifest.sdk}, which speaks wire {release.manifest.wire}; "
            f"this node, millstream {__version__}, speaks {', '.join(wire.SPOKEN)}",
            mend=f"upgrade this node to millstream {release.manifest.sdk} or later; until then the release before answers",
        )


def _open_folder(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder that this process makes; it goes with the folder where that is renamed."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _is_locked(folder: Path) -> bool:
    handle = _open_folder(folder)
    if handle is None:
        return False
    try:
        return not _take_lock(handle)
    finally:
        os.close(handle)


def _take_lock(handle: int) -> bool:
    """Take the lock of a folder alone; more than one try, because those who only ask take it too, for a moment."""
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(_LOCK_WAIT_S)  # a file lock that may be given up has no wait with an end
    return False


def _build_environments() -> list[Path]:
    """Where this user builds packages too, as on a laptop: their probe has compiled what ours would compile again."""
    try:
        return sorted(path for path in venv.build_cache().iterdir() if not path.name.startswith(_TEMPORARY))
    except OSError:
        return []  # a machine that only serves, or a user without a home


def _read_seal(prefix: Path) -> Sealed | None:
    try:
        return msgspec.json.decode((prefix / MANIFEST_FILE).read_bytes(), type=Sealed)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None


def _in_idle_thread(work: Callable[[threading.Event], Environment], cancel: threading.Event) -> Environment:
    """Run work in a thread of the lowest priority and return or raise what it does; an interrupt here cancels it there."""
    done: list[Environment] = []
    failed: list[BaseException] = []
    # Not `Thread.join`: interrupted once, that of Python 3.11 takes the thread for ended, and a second one returns at once.
    ended = threading.Event()

    def run() -> None:
        try:
            at_idle_priority()
            done.append(work(cancel))
        except BaseException as error:  # raised again by the caller's thread
            failed.append(error)
        finally:
            ended.set()

    thread = threading.Thread(target=run, name="installation")
    try:
        thread.start()
        ended.wait()
    except BaseException:
        cancel.set()
        if thread.ident is not None:
            ended.wait()
        raise
    if failed:
        raise failed[0]
    return done[0]
