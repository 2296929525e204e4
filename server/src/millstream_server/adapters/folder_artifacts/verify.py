"""What a folder of model files truly holds: opened without following links, measured and hashed."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from millstream_server.core.errors import Failed
from millstream_server.core.model import FileEntry

OPEN_PLAIN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Opens a file but follows no link and never waits, as opening a pipe would; what was opened is then asked what it is."""


def what_is_wrong(name: str, found: os.stat_result) -> str:
    """Say why an entry of a model's folder is no plain file with a printable name; empty where it is one."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return f"the name {name!r} is not UTF-8"
    if not name.isprintable():
        return f"the name {name!r} has characters that cannot be printed"
    match stat.S_IFMT(found.st_mode):
        case stat.S_IFREG:
            return ""
        case stat.S_IFLNK:
            return f"{name} is a symbolic link"
        case stat.S_IFDIR:
            return f"{name} is a folder"
        case _:
            return f"{name} is a device, pipe or socket"


def hash_files(folder: Path) -> tuple[FileEntry, ...]:
    """Hash every file of a flat folder, in the order of their names.

    Raises:
        Failed: model_damaged, it cannot be read, or holds something other than regular files.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
        return tuple(_hash_file(folder, name) for name in names)
    except OSError as error:
        raise Failed("model_damaged", f"the model's files cannot be read: {error}", where=str(folder)) from error


def _hash_file(folder: Path, name: str) -> FileEntry:
    path = folder / name
    wrong = what_is_wrong(name, path.lstat())
    if wrong:
        raise _damaged(folder, wrong)
    with open(os.open(path, OPEN_PLAIN), "rb") as file:
        found = os.fstat(file.fileno())
        wrong = what_is_wrong(name, found)  # again, of what was opened: it may have been exchanged since
        if wrong:
            raise _damaged(folder, wrong)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(name=name, size_bytes=found.st_size, sha256=digest)


def _damaged(folder: Path, wrong: str) -> Failed:
    return Failed("model_damaged", f"the model's folder holds what no model has: {wrong}; expected regular files only", where=str(folder))
