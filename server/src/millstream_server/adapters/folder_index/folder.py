"""`FolderIndex`: a flat folder of `NAME-VERSION-TAGS.whl`, each with `NAME-VERSION-TAGS.whl.sha256` beside it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from millstream_server.core.errors import Invalid, Unavailable
from millstream_server.core.index import IndexEntry
from millstream_server.shipped import shipped_sdk

_TEMPORARY = ".tmp-"


class FolderIndex:
    """Wheels in one folder; any number of processes may publish and read at the same time.

    Args:
        root: the folder, made when it is missing.
        companions: wheels that `publish` takes in too where they are absent; None means the SDK wheel shipped with the server.
    """

    def __init__(self, root: Path, companions: Sequence[Path] | None = None) -> None:
        self.root = Path(root)
        self._companions = companions

    def publish(self, wheel: Path) -> bool:
        """Add a wheel, durably and at once; false when the very same file is there already.

        Raises:
            Invalid: bad_package for a file whose name is no wheel's; already_published for other contents of a published version.
            Unavailable: no_space, data_dir_unusable.
        """
        sdk = shipped_sdk() if self._companions is None else None
        companions = self._companions if self._companions is not None else [sdk] if sdk is not None else []
        with _told_as_unavailable(self.root), self._locked():
            for companion in companions:
                self._add(Path(companion))
            return self._add(Path(wheel))

    def withdraw(self, package: str, version: str) -> bool:
        """Remove a wheel that nobody will ask for again, and its record; false where it is not there."""
        with _told_as_unavailable(self.root), self._locked():
            entry = next((each for each in self.entries(package) if _same_version(each.version, version)), None)
            if entry is None:
                return False
            # The wheel first: a record without its wheel means nothing.
            (self.root / entry.filename).unlink(missing_ok=True)
            (self.root / f"{entry.filename}.sha256").unlink(missing_ok=True)
        return True

    def entries(self, package: str = "") -> list[IndexEntry]:
        """What is published, of one package or all, by package and version, newest version last.

        A wheel that somebody put into the folder without a record is listed with the hash that it has now.
        """
        wanted = canonicalize_name(package) if package else ""
        found: list[tuple[str, Version, IndexEntry]] = []
        for path in self.root.glob("*.whl"):
            parsed = _parse(path.name)
            if parsed is not None and (not wanted or parsed[0] == wanted):
                name, version = parsed
                found.append((name, version, IndexEntry(name, str(version), path.name, self._recorded(path) or _sha256(path))))
        return [entry for _, _, entry in sorted(found, key=lambda each: (each[0], each[1], each[2].filename))]

    def fetch(self, package: str, version: str) -> tuple[Path, IndexEntry]:
        """Return the path of the release's wheel in the folder, its hash checked.

        Raises:
            Invalid: not_published (naming the versions that are), hash_mismatch.
        """
        entries = self.entries(package)
        entry = next((each for each in entries if _same_version(each.version, version)), None)
        if entry is None:
            versions = ", ".join(each.version for each in entries) or "no version"
            raise Invalid("not_published", f"the index has no {package}=={version}, it has {versions} of {package}", where=str(self.root))
        path = self.root / entry.filename
        actual = _sha256(path)
        if actual != entry.sha256:
            raise Invalid(
                "hash_mismatch",
                f"{entry.filename} has SHA-256 {actual}, but {entry.sha256} was published",
                where=str(path),
            )
        return path, entry

    def install_arguments(self) -> Sequence[str]:
        """`--find-links` to the folder; the user's own index is still asked for everything else."""
        return ["--find-links", str(self.root.absolute())]

    def _add(self, wheel: Path) -> bool:
        parsed = _parse(wheel.name)
        if parsed is None:
            raise Invalid("bad_package", f"{wheel.name} is not the name of a wheel (NAME-VERSION-TAGS.whl)", where=str(wheel))
        name, version = parsed
        sha256 = _sha256(wheel)
        for entry in self.entries(name):
            if not _same_version(entry.version, str(version)):
                continue
            if entry.sha256 == sha256 and entry.filename == wheel.name:
                return False
            raise Invalid(
                "already_published",
                f"{name}=={version} is published as {entry.filename} with SHA-256 {entry.sha256}; {wheel.name} has {sha256}",
                where=str(self.root),
            )
        temporary = self.root / f"{_TEMPORARY}{uuid.uuid4().hex}"
        try:
            shutil.copyfile(wheel, temporary)
            if _sha256(temporary) != sha256:
                raise Invalid("hash_mismatch", f"{wheel.name} changed while it was being published", where=str(wheel))
            _sync(temporary)
            # The record comes first: a wheel is never visible without it, and a record without its wheel means nothing.
            self._write_record(wheel.name, sha256)
            os.replace(temporary, self.root / wheel.name)
            _sync(self.root)
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def _write_record(self, filename: str, sha256: str) -> None:
        temporary = self.root / f"{_TEMPORARY}{uuid.uuid4().hex}"
        try:
            temporary.write_text(f"{sha256}\n", encoding="ascii")
            _sync(temporary)
            os.replace(temporary, self.root / f"{filename}.sha256")
        finally:
            temporary.unlink(missing_ok=True)

    def _recorded(self, wheel: Path) -> str:
        try:
            return wheel.with_name(wheel.name + ".sha256").read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return ""

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for leftover in self.root.glob(f"{_TEMPORARY}*"):  # of a process that was killed: the lock says nobody writes
                leftover.unlink(missing_ok=True)
            yield


@contextlib.contextmanager
def _told_as_unavailable(root: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise Invalid(
            "bad_input", f"there is no wheel {error.filename}", where=str(error.filename), mend="build it: millstream build"
        ) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unavailable("no_space", f"no space left for the index in {root}", where=str(root)) from None
        raise Unavailable("data_dir_unusable", f"the index folder {root} cannot be written: {error.strerror}", where=str(root)) from None


def _parse(filename: str) -> tuple[str, Version] | None:
    try:
        name, version, _, _ = parse_wheel_filename(filename)
    except (InvalidWheelFilename, InvalidVersion):
        return None
    return str(name), version


def _same_version(one: str, other: str) -> bool:
    try:
        return Version(one) == Version(other)
    except InvalidVersion:
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
