"""Processes as the kernel tells of them in /proc: whose child, how much CPU and memory, what it runs."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """One process as /proc/PID/stat shows it; `cpu_s` is user and system time of all its threads so far."""

    pid: int
    parent: int
    state: str
    cpu_s: float
    reaped_cpu_s: float
    start_ticks: int


def process(pid: int) -> Process | None:
    """One process, or None where it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    # Source: proc(5). Fields from the third on: state 0, ppid 1, utime 11, stime 12, cutime 13, cstime 14, starttime 19.
    cpu_s = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    reaped_s = (int(fields[13]) + int(fields[14])) / _TICKS_PER_S
    return Process(pid, int(fields[1]), fields[0], cpu_s, reaped_s, int(fields[19]))


def lives(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    found = process(pid)
    return found is not None and found.state != "Z"


def tree(root: int) -> list[Process]:
    """A process and all its living descendants."""
    living = [found for entry in os.listdir("/proc") if entry.isdigit() and (found := process(int(entry))) is not None]
    children: dict[int, list[Process]] = {}
    for one in living:
        children.setdefault(one.parent, []).append(one)
    family = [one for one in living if one.pid == root]
    for one in family:
        family.extend(children.get(one.pid, []))
    return family


def tree_cpu_s(root: int) -> float:
    """CPU seconds that a process, its living descendants and its ended and waited-for children have used."""
    return sum(one.cpu_s + one.reaped_cpu_s for one in tree(root))


def command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    except OSError:
        return []


def workers(node: int) -> list[Process]:
    """The living worker processes of a node; not bubblewrap, which stands around each and has its command line too."""
    return [one for one in tree(node) if one.pid != node and is_worker(one.pid)]


def is_worker(pid: int) -> bool:
    """Whether a process is a worker, by its command line."""
    words = command_line(pid)
    return "millstream.worker" in words and Path(words[0]).name.startswith("python")


def pss_bytes(pid: int) -> int:
    """Proportional set size: a page that n processes share counts as 1/n page."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def machine() -> str:
    """The machine in a few words, for result files: cores, processor, Python."""
    names = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    version = ".".join(str(n) for n in sys.version_info[:3])
    return f"{os.cpu_count()} cores, {names[0] if names else 'unknown processor'}, Linux {os.uname().release}, Python {version}"
