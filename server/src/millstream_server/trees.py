"""Folders that pipeline code may have written into: walked and removed whatever their depth and modes.

`shutil.rmtree` and `os.walk` of Python 3.11 call themselves once a level, so that a thousand nested folders end them with a
RecursionError, and a path of more than 4,096 bytes cannot be named at all.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

DEEPEST = 100
"""Levels below which `folders` does not go; installed libraries have some ten."""


def folders(top: Path) -> Iterator[str]:
    """A folder and all below it, each before those in it; links are not followed, and what goes meanwhile is passed over.

    Raises:
        OSError: it cannot be listed, or is deeper than `DEEPEST` levels.
    """
    pending = [(os.fspath(top), 0)]
    while pending:
        folder, level = pending.pop()
        if level > DEEPEST:
            raise OSError(errno.ENAMETOOLONG, f"folders nested deeper than {DEEPEST} levels", folder)
        yield folder
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            pending += [(entry.path, level + 1) for entry in entries if entry.is_dir(follow_symlinks=False)]


def remove(top: Path) -> bool:
    """Remove a tree, as far as that can be done; whether nothing of it is left. Of a link the link alone.

    A folder that lies deeper is moved up into `top` before it is emptied, so that no path is longer than three names below it.
    """
    root = os.fspath(top)
    if not os.path.isdir(root) or os.path.islink(root):
        with contextlib.suppress(OSError):
            os.unlink(root)
        return not os.path.lexists(root)
    pending = [root]
    while pending:
        folder = pending.pop()
        for path, is_folder in _entries(folder):
            with contextlib.suppress(OSError):  # what cannot be removed is left, and the rest goes
                if is_folder:
                    pending.append(path if folder == root else _moved_up(path, root))
                else:
                    os.unlink(path)
        if folder != root:
            with contextlib.suppress(OSError):
                os.rmdir(folder)
    with contextlib.suppress(OSError):
        os.rmdir(root)
    return not os.path.lexists(root)


def _entries(folder: str) -> list[tuple[str, bool]]:
    with contextlib.suppress(OSError):
        os.chmod(folder, 0o700)
        with os.scandir(folder) as entries:
            return [(entry.path, entry.is_dir(follow_symlinks=False)) for entry in entries]
    return []


def _moved_up(path: str, root: str) -> str:
    os.chmod(path, 0o700)  # to move a folder elsewhere is to write into it
    moved = os.path.join(root, uuid.uuid4().hex)
    os.rename(path, moved)
    return moved
