"""The input: one CSV of readings a monitored resource, and the labelled windows of its anomalies.

A folder has `metrics/*.csv` (header `timestamp,value`, one reading a line) and, where somebody labelled it,
`anomaly_windows.json` ({file name: [[start, end], ...]}). One file is one tenant.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

WINDOW = 12
"""Readings before the one that is judged; the pipelines make their features from them."""
MIN_READINGS = 48
"""Half of them train: 24 readings leave 12 with a whole window before them, the least that a model can be made of."""
MAX_FILES = 1000


class BadData(Exception):
    """A file of the folder cannot be used: which, what is wrong, how it is mended. `line` 0 means the file as a whole."""

    def __init__(self, path: Path, line: int, wrong: str, mend: str) -> None:
        self.path, self.line, self.wrong, self.mend = path, line, wrong, mend
        super().__init__(f"error[bad-input]: {wrong}\n  where: {path}{f':{line}' if line else ''}\n  mend: {mend}")


@dataclass(frozen=True)
class Reading:
    """One reading of a tenant's later half, with the readings before it, oldest first."""

    tenant: str
    position: int
    timestamp: str
    value: float
    window: tuple[float, ...]


@dataclass(frozen=True)
class Metric:
    """One file: a tenant, its readings in time order, and its labelled windows (start and end inclusive)."""

    tenant: str
    path: Path
    timestamps: tuple[str, ...]
    values: tuple[float, ...]
    windows: tuple[tuple[datetime, datetime], ...]
    labelled: bool

    @property
    def half(self) -> int:
        """Index of the first reading of the later half; the earlier half trains."""
        return len(self.values) // 2

    def later_half(self) -> list[Reading]:
        return [
            Reading(self.tenant, i, self.timestamps[i], self.values[i], self.values[i - WINDOW : i])
            for i in range(self.half, len(self.values))
        ]

    def windows_in_later_half(self) -> list[tuple[datetime, datetime]]:
        """The windows that hold at least one reading of the later half."""
        served = [parse_time(text) for text in self.timestamps[self.half :]]
        return [(start, end) for start, end in self.windows if any(start <= moment <= end for moment in served)]


def read_folder(folder: Path) -> list[Metric]:
    """Read and check every file of a folder before anything starts.

    Returns:
        Metrics in the order of their file names, 1 to MAX_FILES of them.

    Raises:
        BadData: the first file that cannot be used.
    """
    paths = sorted((folder / "metrics").glob("*.csv"))
    if not paths:
        mend = f"put one CSV a resource there, header timestamp,value, at least {MIN_READINGS} readings"
        raise BadData(folder / "metrics", 0, "there is no *.csv file in it", mend)
    if len(paths) > MAX_FILES:
        raise BadData(folder / "metrics", 0, f"it has {len(paths)} files, the demo takes at most {MAX_FILES}", "move some away")
    labels = _read_labels(folder / "anomaly_windows.json")
    metrics = []
    seen: dict[str, Path] = {}
    for path in paths:
        tenant = tenant_of(path)
        if tenant in seen:
            raise BadData(path, 0, f"its tenant name {tenant} is that of {seen[tenant].name} too", "rename one of the two files")
        seen[tenant] = path
        timestamps, values = _read_csv(path)
        metrics.append(Metric(tenant, path, timestamps, values, labels.get(path.name, ()), path.name in labels))
    return metrics


def tenant_of(path: Path) -> str:
    """A tenant name (letters, digits, - and _, at most 64) from a file name."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", path.stem)[:64]


def parse_time(text: str) -> datetime:
    """ISO 8601 with a space or T; a zone, if there is one, is dropped: labels and readings are compared as written."""
    return datetime.fromisoformat(text).replace(tzinfo=None)


def in_order(metrics: list[Metric]) -> list[Reading]:
    """All readings of the later halves as they would come in: every tenant at the same relative place of its half."""
    halves = [metric.later_half() for metric in metrics]
    keyed = ((place / len(half), tenant, reading) for tenant, half in enumerate(halves) for place, reading in enumerate(half))
    return [reading for _, _, reading in sorted(keyed, key=lambda item: item[:2])]


def _read_csv(path: Path) -> tuple[tuple[str, ...], tuple[float, ...]]:
    timestamps, values = [], []
    previous: datetime | None = None
    for line, row in _rows(path):
        if len(row) != 2:
            raise BadData(path, line, f"the line has {len(row)} fields, expected timestamp,value", "correct or remove the line")
        try:
            moment = parse_time(row[0])
        except ValueError:
            raise BadData(path, line, f"{row[0][:60]!r} is no timestamp", "write it as 2014-02-14 14:30:00") from None
        try:
            value = float(row[1])
        except ValueError:
            raise BadData(path, line, f"{row[1][:60]!r} is no number", "correct the value or remove the line") from None
        if not math.isfinite(value):
            raise BadData(path, line, f"the value {row[1]} is not finite", "remove the line")
        if previous is not None and moment < previous:
            raise BadData(path, line, f"{row[0]} is before the line above it", "sort the file by timestamp")
        previous = moment
        timestamps.append(row[0])
        values.append(value)
    if len(values) < MIN_READINGS:
        raise BadData(path, 0, f"it has {len(values)} readings, at least {MIN_READINGS} are needed", "add readings, or move the file away")
    return tuple(timestamps), tuple(values)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The data lines of a CSV with their line numbers; the header is checked, empty lines at the end are allowed."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadData(path, 0, f"it is not UTF-8 text: {error.reason} at byte {error.start}", "save it as UTF-8") from None
    if not text.strip():
        raise BadData(path, 0, "it is empty", "put a header timestamp,value and readings into it, or move it away")
    lines = csv.reader(text.rstrip().splitlines())
    try:
        header = [name.strip() for name in next(lines)]
        if header != ["timestamp", "value"]:
            raise BadData(path, 1, f"the header is {','.join(header)[:60]!r}, expected 'timestamp,value'", "give the file that header")
        for row in lines:
            yield lines.line_num, row
    except csv.Error as error:
        raise BadData(path, lines.line_num, f"it is not CSV: {error}", "correct or remove the line") from None


def _read_labels(path: Path) -> dict[str, tuple[tuple[datetime, datetime], ...]]:
    if not path.exists():
        return {}
    try:
        labels = json.loads(path.read_text())
        return {name: tuple((parse_time(start), parse_time(end)) for start, end in windows) for name, windows in labels.items()}
    except (ValueError, TypeError, AttributeError) as error:
        mend = "write {file name: [[start, end], ...]}, or remove the file"
        raise BadData(path, getattr(error, "lineno", 0), f"it does not hold labelled windows: {error}", mend) from None
