"""A data directory as a whole: made once, brought up to date in numbered steps by the node that holds it, refused where it is newer.

`data.json` says who made it, in which format it is, and which version worked in it last of all. What lies beside it is another's: log
and store carry schemas of their own. Called by `app` alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from packaging.version import InvalidVersion, Version

from millstream_server import __version__
from millstream_server.core.errors import Unavailable
from millstream_server.core.ids import new_id

Step = Callable[[Path], None]

STEPS: tuple[Step, ...] = ()
"""Step n leads from format n to n + 1, counted from 1, and never changes once it was released. It is handed the data directory, and may
be cut off at any moment: then it is run again on what it left."""

DATA_FORMAT = 1 + len(STEPS)
"""Format of the data directory; a directory with a higher one was written by a newer version."""

FILE = "data.json"


class DataFile(msgspec.Struct, frozen=True):
    """`data.json`: what made the data directory, and the newest version whose node worked in it."""

    format: int
    version: str
    log_id: str
    created_ms: int
    newest: str = ""

    @property
    def last(self) -> str:
        """The newest version that is known to have worked here."""
        return self.newest or self.version


def make(data_dir: Path) -> None:
    """Make an empty or new folder a data directory.

    Raises:
        Unavailable: data_dir_unusable.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        strangers = [p.name for p in data_dir.iterdir() if p.name != "millstream.toml"]
        if strangers:
            raise Unavailable(
                "data_dir_unusable",
                f"{data_dir} holds other files ({', '.join(sorted(strangers)[:3])}) and is no data directory",
                mend="give an empty or new folder with --data-dir",
            )
        now_ms = time.time_ns() // 1_000_000
        _write(data_dir, DataFile(DATA_FORMAT, __version__, new_id(now_ms), now_ms, __version__))
    except OSError as error:
        raise Unavailable("data_dir_unusable", f"{data_dir} cannot be made or written: {error.strerror}", where=str(data_dir)) from None


def described(data_dir: Path, known: int = DATA_FORMAT) -> DataFile:
    """What a data directory says of itself, if this version can read it.

    Raises:
        Unavailable: data_dir_unusable, data_dir_too_new.
    """
    path = data_dir / FILE
    try:
        found = msgspec.json.decode(path.read_bytes(), type=DataFile)
    except (OSError, msgspec.DecodeError) as error:
        raise Unavailable(
            "data_dir_unusable", f"{path} cannot be read: {error}", where=str(path), mend="restore it from a backup"
        ) from None
    if found.format > known:
        raise Unavailable(
            "data_dir_too_new",
            f"{data_dir} is in format {found.format} of version {found.last}; this is {__version__}, which knows formats up to {known}",
            where=str(path),
            mend=f"run the newer version, {found.last}, or use another --data-dir",
        )
    return found


def bring_up_to_date(data_dir: Path, steps: Sequence[Step] = STEPS) -> None:
    """Make the steps that the directory lacks, and record that this version works here; called by the one node that holds it.

    Raises:
        Unavailable: data_dir_unusable, data_dir_too_new, no_space.
    """
    found = described(data_dir, 1 + len(steps))
    try:
        for number in range(found.format, 1 + len(steps)):
            steps[number - 1](data_dir)
            found = msgspec.structs.replace(found, format=number + 1)
            _write(data_dir, found)
        if is_newer(__version__, found.last) or not found.newest:
            newest = __version__ if is_newer(__version__, found.last) else found.last
            _write(data_dir, msgspec.structs.replace(found, newest=newest))
    except OSError as error:
        raise Unavailable("data_dir_unusable", f"{data_dir} cannot be brought up to date: {error.strerror}", where=str(data_dir)) from error


def is_newer(version: str, than: str) -> bool:
    """Whether one version of the platform comes after another; one that cannot be read comes after none."""
    try:
        return Version(version) > Version(than)
    except InvalidVersion:
        return False


def _write(data_dir: Path, described: DataFile) -> None:
    """Replace the file whole, durably: who is killed leaves the old one or the new one."""
    temporary = data_dir / f"{FILE}.tmp"
    with temporary.open("wb") as file:
        file.write(msgspec.json.encode(described))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, data_dir / FILE)
