"""The table at the end: one line a tenant, and the sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

from examples.anomaly.demo.alarms import Alarms

COLUMNS = ("tenant", "release", "model", "requests", "results", "lost", "dup", "alarms", "outside", "windows hit", "at random")


@dataclass(frozen=True)
class Line:
    """One tenant: the release that trained its champion, the champion's version, and its counts."""

    tenant: str
    release: str
    version: int
    requests: int
    results: int
    lost: int
    duplicated: int
    alarms: Alarms | None
    """None where nobody labelled the metric: there is nothing to be right about."""
    flags: int


def render(lines: Sequence[Line]) -> str:
    """The table as text, numbers to the right; `at random` is what as many random flags would hit on average."""
    rows = [_cells(line) for line in lines] + [_cells(total(lines))]
    widths = [max(len(row[i]) for row in [COLUMNS, *rows]) for i in range(len(COLUMNS))]
    ruled = ["-" * width for width in widths]
    shown = [COLUMNS, tuple(ruled), *rows[:-1], tuple(ruled), rows[-1]]
    return "\n".join("  ".join(_aligned(row, widths)) for row in shown)


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(zip(row, widths, strict=True))]


def total(lines: Sequence[Line]) -> Line:
    """All tenants together; the release column says how many releases serve."""
    labelled = [line.alarms for line in lines if line.alarms is not None]
    summed = Alarms(*(sum(column) for column in zip(*(astuple(a) for a in labelled), strict=True))) if labelled else None
    return Line(
        f"all {len(lines)}",
        f"{len({line.release for line in lines})} kinds",
        sum(line.version for line in lines),
        sum(line.requests for line in lines),
        sum(line.results for line in lines),
        sum(line.lost for line in lines),
        sum(line.duplicated for line in lines),
        summed,
        sum(line.flags for line in lines),
    )


def _cells(line: Line) -> tuple[str, ...]:
    alarms = line.alarms
    judged: tuple[str, ...] = ("-", "-", "-")
    if alarms is not None:
        judged = (f"{alarms.outside:,}", f"{alarms.hit} of {alarms.windows}", f"{alarms.expected_hits:.1f}")
    counts = (line.requests, line.results, line.lost, line.duplicated, line.flags)
    model = f"v{line.version}" if not line.tenant.startswith("all ") else f"{line.version} versions"
    return (line.tenant, line.release, model, *(f"{n:,}" for n in counts), *judged)


def releases_of(champions: Mapping[str, Mapping[str, object]]) -> dict[str, tuple[str, int]]:
    """Release and version of each tenant's champion, from the proof."""
    return {tenant: (str(row["release"]), int(str(row["version"]))) for tenant, row in champions.items()}
