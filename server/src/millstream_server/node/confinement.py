"""How workers are confined on this node: their namespaces, their limits, and the folders that each has for itself.

Made once by `app` and handed to whoever starts processes of an environment: pools, runs, trials by hand, and the installer's import probe.

A confined worker sees no path of the data directory but its environment. So the files of a model are shown to it in a folder of its own,
as hard links (copies where they lie on another disk), and what a training leaves is taken from such a folder into the staged one. A model
that was folders is shown as these too: unpacked by the worker it would lie in its /tmp, which is memory.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

import msgspec

from millstream_server import trees
from millstream_server.core.errors import Unavailable
from millstream_server.core.folders import FOLDER, LAYOUT_FILE, MOST_LAYOUT_BYTES, read_layout
from millstream_server.node import control_groups, sandbox
from millstream_server.node.control_groups import ControlGroups, Group
from millstream_server.node.sandbox import Missing, Sandbox

WORKERS = "workers"
_ENTER = (
    'for door in $1; do echo 0 > "$door" || exit 125; done; ulimit -n $2 && ulimit -c 0 && ulimit -f $3 || exit 125; shift 3; exec "$@"'
)
"""A shell line: into the groups, then become the command. A process that enters after it started would leave children outside."""
_BLOCK_BYTES = 512
"""Of sh's `ulimit -f`."""


class Confines(msgspec.Struct, frozen=True):
    """What the settings say; sizes in bytes. `network`: who may reach it, `none`, `runs` or `all`; `cpus`: cores a worker, 0 for all."""

    sandbox: str = "auto"
    network: str = "runs"
    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    tmp_bytes: int = 512 << 20
    processes: int = 512
    open_files: int = 4096
    file_bytes: int = 16 << 30
    cpus: float = 0.0


class Own:
    """One worker's own folders and groups. `models` and `out` are None for a worker that is not confined: it sees the real ones."""

    def __init__(self, folder: Path, models: Path | None, out: Path | None, group: Group | None) -> None:
        self.folder = folder
        self.models = models
        self.out = out
        self.group = group
        self.kept = False
        """Whether somebody still wants what is in it after the worker's end, and will remove it."""
        self._number = 0

    def show(self, files: Path) -> Path:
        """Show the files of a flat folder to the worker; where it sees them. Blocks; in any thread.

        Raises:
            OSError: no space for a copy, or the worker is gone.
        """
        if self.models is None:
            return files
        self._number += 1
        shown = self.models / f"{self._number}-{uuid.uuid4().hex[:8]}"
        shown.mkdir()
        for entry in os.scandir(files):
            if entry.is_file(follow_symlinks=False):  # whoever verified them has refused anything else
                _put(entry.path, shown / entry.name)
        _show_folder(shown)
        return shown

    def hide(self, shown: Path) -> None:
        """The worker needs these files no more. Blocks; in any thread."""
        if self.models is not None and shown.parent == self.models:
            trees.remove(shown)

    def take_out(self, staged: Path) -> None:
        """Move what a training left into the folder that is sealed next. Blocks; in any thread."""
        if self.out is None:
            return
        for entry in list(os.scandir(self.out)):
            try:
                os.rename(entry.path, staged / entry.name)
            except OSError:  # another disk
                shutil.move(entry.path, staged / entry.name)

    def remove(self) -> None:
        """Remove the folders and the group of a worker that has ended. Blocks; in any thread."""
        if self.group is not None:
            self.group.remove()
        if self.models is not None:
            trees.remove(self.folder)


def _put(source: str | Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or files of another user
        shutil.copyfile(source, target)


def _show_folder(shown: Path) -> None:
    """Show a model that was folders as it was, but for one with modules: what is imported from there outlives the model."""
    layout_file, folder = shown / LAYOUT_FILE, shown / FOLDER
    if not layout_file.is_file() or layout_file.stat().st_size > MOST_LAYOUT_BYTES:
        return
    layout = read_layout(layout_file.read_bytes(), set(os.listdir(shown)))
    if layout is None or layout.modules or folder.exists():
        return
    try:
        for path, name in layout.files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            _put(shown / name, target)
    except (
        FileExistsError,
        NotADirectoryError,
        IsADirectoryError,
    ):  # one place is a file and a folder: the worker says what is wrong with it
        trees.remove(folder)


class Confinement:
    """What holds for every worker of this node. `said` tells a reader what that is; `mend` makes it more, empty where nothing would."""

    def __init__(self, confines: Confines, found: Sandbox | Missing | None, groups: ControlGroups | None) -> None:
        self.confines = confines
        self.sandbox = found if isinstance(found, Sandbox) else None
        self._groups = groups
        self._prlimit = shutil.which("prlimit")
        self.said = f"bubblewrap {self.sandbox.version}" if self.sandbox is not None else "off by the setting worker.sandbox"
        self.mend = ""
        if isinstance(found, Missing):
            self.said, self.mend = f"off: {found.reason}", found.mend

    def own(self, work: Path, *, run: bool) -> Own:
        """Make the folders and groups of one worker.

        Raises:
            OSError: they cannot be made.
        """
        group = self._groups.make(self.confines.processes, self.confines.cpus) if self._groups is not None else None
        if self.sandbox is None:
            work.mkdir(parents=True, exist_ok=True)
            return Own(work, None, None, group)
        folder = work / WORKERS / uuid.uuid4().hex
        models, out = folder / "models", folder / "out"
        models.mkdir(parents=True)
        if run:
            out.mkdir()
        return Own(folder, models, out if run else None, group)

    def command(self, command: Sequence[str], python: Path, own: Own, *, run: bool) -> list[str]:
        """A worker's command, with all that confines it."""
        limited = list(command) if own.group is not None else [*self._limits(), *command]
        if self.sandbox is not None:
            shown = [own.models] if own.models is not None else []
            written = [own.out] if own.out is not None else []
            limited = self.sandbox.command(limited, python, readable=shown, writable=written, network=self.reaches(run=run))
        if own.group is None:
            return limited
        limits = [str(self.confines.open_files), str(self.confines.file_bytes // _BLOCK_BYTES)]
        return ["/bin/sh", "-c", _ENTER, "sh", " ".join(own.group.doors), *limits, *limited]

    def probe(self, command: Sequence[str], prefix: Path) -> list[str]:
        """The command that imports a release for the first time, in its environment that is being made and may be written."""
        if self.sandbox is None:
            return [*self._limits(), *command]
        return self.sandbox.command([*self._limits(), *command], prefix / "bin" / "python", writable=[prefix])

    def reaches(self, *, run: bool) -> bool:
        """Whether a worker has the network."""
        return self.confines.network == "all" or (self.confines.network == "runs" and run)

    def _limits(self) -> list[str]:
        """Limits that a process cannot raise again. That of processes counts all of a user, so it is set only in a user namespace."""
        if self._prlimit is None:
            return []
        limits = [f"--nofile={self.confines.open_files}", f"--fsize={self.confines.file_bytes}", "--core=0"]
        if self.sandbox is not None:
            limits.append(f"--nproc={self.confines.processes}")
        return [self._prlimit, *limits]


def confine(confines: Confines) -> Confinement:
    """Look what this machine has, and decide how workers are confined.

    Raises:
        Unavailable: no_sandbox, it is required and is not there.
    """
    groups = control_groups.find() if confines.sandbox != "off" else None
    if confines.sandbox == "off":
        return Confinement(confines, None, groups)
    found = sandbox.find(confines.readable, confines.writable, confines.tmp_bytes)
    if isinstance(found, Missing) and confines.sandbox == "required":
        raise Unavailable("no_sandbox", f"{found.reason}, and the setting worker.sandbox requires it", mend=found.mend)
    return Confinement(confines, found, groups)


UNCONFINED = Confinement(Confines(sandbox="off"), None, None)
