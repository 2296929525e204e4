"""Control groups of workers: how many processes one may have, and how much CPU.

Called by `confinement`. The kernel counts the processes of a user that is root nowhere else, and gives a share of CPU no other way.
Both versions are understood: of the first each controller has a folder of its own, of the second one folder has all. A node uses what it
may write: as root nearly always on the first version; on the second where its unit says `Delegate=yes` and `DelegateSubgroup=node`,
since there a group with processes cannot have groups with limits. Where it may not, limits of processes (rlimits) hold alone.

Source: the kernel's pages cgroup-v1/pids, cgroup-v2 ("No Internal Process Constraint", "Delegation").
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

ROOT = Path("/sys/fs/cgroup")
PREFIX = "millstream-"
NODE_GROUP = "node"
PERIOD_US = 100_000
_REMOVE_TRIES, _REMOVE_WAIT_S = 50, 0.01


class Group(msgspec.Struct, frozen=True):
    """The groups of one worker, a folder each controller."""

    folders: tuple[Path, ...]

    @property
    def doors(self) -> list[str]:
        """Files by which a process enters: it writes its id, or 0 for itself."""
        return [str(folder / "cgroup.procs") for folder in self.folders]

    def pids(self) -> list[int]:
        """Its processes now."""
        try:
            return [int(word) for word in (self.folders[0] / "cgroup.procs").read_text().split()]
        except OSError:
            return []  # it has been removed

    def refused(self) -> int:
        """How often it was refused another process."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            for folder in self.folders:
                if (folder / "pids.events").exists():
                    return int((folder / "pids.events").read_text().split()[1])
        return 0

    def remove(self) -> None:
        """Remove it; blocks until its processes, which were killed, are gone. One that stays is removed by the next node."""
        for folder in self.folders:
            for _ in range(_REMOVE_TRIES):
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(_REMOVE_WAIT_S)  # nothing tells of the end of the last process of a group of either version
                else:
                    break


class ControlGroups:
    """The groups in which this process makes those of its workers; by controller a folder that it may write."""

    def __init__(self, parents: dict[str, Path]) -> None:
        self.parents = parents
        self._number = 0

    def make(self, processes: int, cpus: float) -> Group | None:
        """Make the group of one worker; None where nothing can be limited.

        Args:
            processes: most processes and threads.
            cpus: cores that it may use, as a number; 0 for no limit.
        """
        self._number += 1
        folders: list[Path] = []
        for controller, limits in (("pids", {"pids.max": str(processes)}), ("cpu", _cpu_limits(cpus))):
            parent = self.parents.get(controller)
            if parent is None or not limits:
                continue
            folder = parent / f"{PREFIX}{os.getpid()}-{self._number}"
            try:
                folder.mkdir(exist_ok=True)
                for name, value in limits.items():
                    if (folder / name).exists():
                        (folder / name).write_text(value)
            except OSError:
                continue  # limits of processes hold all the same
            if folder not in folders:
                folders.append(folder)
        return Group(tuple(folders)) if folders else None


def _cpu_limits(cpus: float) -> dict[str, str]:
    if not cpus:
        return {}
    quota_us = round(cpus * PERIOD_US)
    return {"cpu.max": f"{quota_us} {PERIOD_US}", "cpu.cfs_quota_us": str(quota_us), "cpu.cfs_period_us": str(PERIOD_US)}


def find() -> ControlGroups | None:
    """The groups that this process may use, tried once; None where it may use none. Removes what nodes before left."""
    try:
        own = Path("/proc/self/cgroup").read_text()
    except OSError:
        return None  # a kernel without control groups
    parents: dict[str, Path] = {}
    for controller, limit in (("pids", "pids.max"), ("cpu", "cpu.max"), ("cpu", "cpu.cfs_quota_us")):
        for place in places(own, controller):
            if controller not in parents and _can_limit(ROOT / place, limit):
                parents[controller] = ROOT / place
    for parent in set(parents.values()):
        _sweep(parent)
    return ControlGroups(parents) if parents else None


def places(own: str, controller: str) -> list[str]:
    """Where the groups of workers may be made, under `/sys/fs/cgroup`.

    Args:
        own: /proc/self/cgroup: lines `NUMBER:CONTROLLERS:PATH`, of the second version `0::PATH`.
        controller: `pids` or `cpu`.
    """
    found: list[str] = []
    for line in own.splitlines():
        _, names, path = line.split(":", 2)
        inside = path.strip("/")
        if controller in names.split(","):
            found += [f"{name}/{inside}".rstrip("/") for name in dict.fromkeys((controller, names))]
        elif not names:
            found.append(inside or ".")
            if Path(path).name == NODE_GROUP:
                found.append(str(Path(inside).parent))
    return found


def _can_limit(parent: Path, limit: str) -> bool:
    tried = parent / f"{PREFIX}{os.getpid()}-0"
    try:
        tried.mkdir()
    except OSError:
        return False
    try:
        return os.access(tried / limit, os.W_OK)
    finally:
        with contextlib.suppress(OSError):
            tried.rmdir()


def _sweep(parent: Path) -> None:
    left: Iterable[Path] = []
    with contextlib.suppress(OSError):
        left = list(parent.glob(f"{PREFIX}*-*"))
    for folder in left:
        owner = folder.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdecimal() and not Path("/proc", owner).exists():
            with contextlib.suppress(OSError):  # its workers are still ending, or it is another's
                folder.rmdir()
