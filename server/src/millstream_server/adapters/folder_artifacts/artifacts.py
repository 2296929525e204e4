"""Staging, sealing and fetching of model files under one root folder."""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from pathlib import Path

from millstream_server import trees
from millstream_server.adapters.folder_artifacts.verify import OPEN_PLAIN, hash_files, what_is_wrong
from millstream_server.core.errors import Failed, Unavailable
from millstream_server.core.model import FileEntry
from millstream_server.core.names import check_name, is_name

STAGING = ".staging"
_LEAF = re.compile(r"(?P<run>[A-Za-z0-9_-]{1,64})-(?P<attempt>[1-9][0-9]{0,8})\Z", re.ASCII)
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


class FolderArtifacts:
    """`core.artifacts.Artifacts` under `root`, which is made where it is missing; methods may be called from any thread."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def check(self) -> str:
        here = next(folder for folder in (self._root, *self._root.parents) if folder.is_dir())
        if not os.access(here, os.W_OK | os.X_OK):
            said = f"{here} cannot be written by this user"
            raise Unavailable("data_dir_unusable", f"model files cannot be kept: {said}", where=str(self._root))
        return str(self._root)

    def place(self, location: str) -> str:
        return str(self._root / location)

    def stage(self, key: str, run: str, attempt: int) -> Path:
        _check_key(key)
        check_name("run", run)
        if attempt < 1:
            raise ValueError(f"attempts count from 1, this is {attempt}")
        parent = self._root / STAGING / key
        staged = parent / f"{run}-{attempt}"
        for number in range(1, attempt + 1):  # this one too: an attempt is claimed once, so what stands there is nobody's
            self.discard(parent / f"{run}-{number}")
        try:
            parent.mkdir(parents=True, exist_ok=True)
            staged.mkdir()
        except OSError as error:
            raise _unavailable("make a folder for model files", staged, error) from error
        return staged

    def seal(self, staged: Path) -> str:
        location = self._location_of(staged)
        final = self._root / location
        if final.is_dir():
            if staged.exists():
                raise Failed("bad_model_files", f"this attempt has sealed its model already, at {location}", where=str(staged))
            return location
        try:
            _make_durable(staged)
        except FileNotFoundError as error:
            raise Failed("bad_model_files", f"the folder of the model's files is gone: {error}", where=str(staged)) from error
        except OSError as error:
            raise _unavailable("write model files to the disk", staged, error) from error
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            os.rename(staged, final)
            _sync_folder(final.parent)
            _sync_folder(self._root)
        except OSError as error:
            raise _unavailable(f"move model files to {final}", staged, error) from error
        return location

    def fetch(self, location: str) -> Path:
        folder = self._place_of(location)
        if folder.is_symlink() or folder.parent.is_symlink() or not folder.is_dir():
            raise Failed("model_damaged", f"the folder of the model's files is gone: {folder}", where=location)
        return folder

    def hash_files(self, folder: Path) -> tuple[FileEntry, ...]:
        return hash_files(folder)

    def discard(self, staged: Path) -> None:
        self._location_of(staged)
        trees.remove(staged)
        with suppress(OSError):  # other attempts are staged beside it, or it is gone already: both are as they should be
            staged.parent.rmdir()

    def measure(self, location: str) -> tuple[int, int]:
        try:
            with os.scandir(self._place_of(location)) as entries:
                sizes = [entry.stat(follow_symlinks=False).st_size for entry in entries]
        except (FileNotFoundError, NotADirectoryError):
            return 0, 0
        except OSError as error:
            raise _unavailable("look at model files", self._place_of(location), error) from error
        return len(sizes), sum(sizes)

    def remove(self, location: str) -> int:
        folder = self._place_of(location)
        _, freed_bytes = self.measure(location)
        try:
            if folder.is_symlink() or folder.parent.is_symlink():
                raise Failed("model_damaged", f"{folder} is reached by a link, so what stands there is not ours to remove", where=location)
            if folder.exists():
                if not trees.remove(folder):
                    raise OSError(errno.ENOTEMPTY, "something of it cannot be removed", str(folder))
                _sync_folder(folder.parent)
        except OSError as error:
            raise _unavailable("remove model files", folder, error) from error
        return freed_bytes  # the folder of the model stays: a training may be about to move its files into it

    def _place_of(self, location: str) -> Path:
        parts = location.split("/")
        if len(parts) != 2 or not _is_key(parts[0]) or not _LEAF.match(parts[1]):
            raise Failed("model_damaged", f"{location!r} is no place of model files; expected TENANT.MODEL/RUN-ATTEMPT", where=location)
        return self._root / parts[0] / parts[1]

    def _location_of(self, staged: Path) -> str:
        """The location that a staged folder is sealed to; a path that `stage` did not give is a defect of the caller."""
        key, leaf = staged.parent.name, staged.name
        if staged != self._root / STAGING / key / leaf or not _is_key(key) or not _LEAF.match(leaf):
            raise ValueError(f"{staged} is no staged folder of {self._root}")
        return f"{key}/{leaf}"


def _is_key(key: str) -> bool:
    names = key.split(".")
    return len(names) == 2 and all(is_name(name) for name in names)


def _check_key(key: str) -> None:
    tenant, _, model = key.partition(".")
    check_name("tenant", tenant)
    check_name("model", model)


def _make_durable(folder: Path) -> None:
    """Check each entry, make it read-only and bring it to the disk, then the folder itself."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        path = folder / name
        _refuse(folder, name, path.lstat())
        descriptor = os.open(path, OPEN_PLAIN)
        try:
            _refuse(folder, name, os.fstat(descriptor))  # again, of what was opened: it may have been exchanged since
            os.fchmod(descriptor, 0o444)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    # The folder stays writable, so that an operator can remove a data directory without changing modes first.
    os.chmod(folder, 0o755)  # noqa: S103 - others may read a model; whose it is, its signature says
    _sync_folder(folder)


def _refuse(folder: Path, name: str, found: os.stat_result) -> None:
    wrong = what_is_wrong(name, found)
    if not wrong and found.st_nlink != 1:
        wrong = f"{name} is a hard link to a file that stands elsewhere too"  # whose contents and mode are not ours to fix
    if wrong:
        raise Failed(
            "bad_model_files", f"the training left a folder that is no model: {wrong}; expected regular files only", where=str(folder)
        )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unavailable(what: str, path: Path, error: OSError) -> Unavailable:
    code = "no_space" if error.errno in _NO_SPACE else "data_dir_unusable"
    return Unavailable(code, f"cannot {what}: {error}", where=str(path))
