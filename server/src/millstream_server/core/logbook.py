"""The one readable log of a node and its workers: the structure of a line, its JSON, and how it looks on a terminal.

The node writes lines as JSON to `logs/node.jsonl` in the data directory; `millstream logs` and the node's own terminal render
them: `12:03:11.482 info detect acme.anomaly v2 anomaly 2.0.0 req 01J9 try 1 | flagged 3 of 288`. A message of several lines, and
the traceback of a failure, stand below their line and are indented, so that no text of an author or a caller can pass for a line
of the log; characters that a terminal would obey are escaped, in JSON by JSON itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import msgspec

FILE_NAME = "node.jsonl"
LEVELS = ("debug", "info", "warning", "error")
AUTHOR = "author"
"""The event of a line that pipeline code wrote; it is shown as the author wrote it."""
TRACEBACK = "traceback"
"""The fact of a line that holds where pipeline code failed, of many lines."""
SHOWN_BYTES = 4000
"""What is shown of one line at most where nobody asks for more: a terminal or pipe takes 4,096 bytes without making its writer wait."""
INDENT = "    "

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KEYS = (
    "ts", "level", "event", "requests", "run", "pipeline", "tenant", "model", "model_version", "release", "build_id",
    "node", "worker", "attempt", "duration_s", "message",
)  # fmt: skip


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One event, one line. What does not apply is left empty.

    `request_ids` are all requests that the line is about: hundreds, for a batch. `model` is spelled tenant.model, `release` is
    the version of `package`, `worker` the process id of the worker, `attempt` counts from 1. `extra` holds further facts; a key
    of it that is one of the fixed keys is left out. `ts_ms` is Unix milliseconds.
    """

    ts_ms: int
    level: str
    event: str
    message: str = ""
    request_ids: tuple[str, ...] = ()
    run: str = ""
    pipeline: str = ""
    tenant: str = ""
    model: str = ""
    model_version: int = 0
    package: str = ""
    release: str = ""
    build_id: str = ""
    node: str = ""
    worker: int = 0
    attempt: int = 0
    duration_s: float | None = None
    extra: Mapping[str, object] = {}

    @property
    def label(self) -> str:
        """package==version, or empty."""
        return f"{self.package}=={self.release}" if self.release else self.package


class _Written(msgspec.Struct, frozen=True, omit_defaults=True):
    """The fixed keys of a line's JSON, in their order."""

    ts: str
    level: str = ""
    event: str = ""
    requests: tuple[str, ...] = ()
    run: str = ""
    pipeline: str = ""
    tenant: str = ""
    model: str = ""
    model_version: int = 0
    release: str = ""
    build_id: str = ""
    node: str = ""
    worker: int = 0
    attempt: int = 0
    duration_s: float | None = None
    message: str = ""


_encoder = msgspec.json.Encoder(enc_hook=str)
_decode_written = msgspec.json.Decoder(_Written).decode
_decode_dict = msgspec.json.Decoder(dict[str, object]).decode


def encode_line(line: Line) -> bytes:
    """A line as one JSON object without a line end; facts that JSON cannot carry are written as text."""
    written = _Written(
        ts=_rfc3339(line.ts_ms),
        level=line.level,
        event=line.event,
        requests=line.request_ids,
        run=line.run,
        pipeline=line.pipeline,
        tenant=line.tenant,
        model=line.model,
        model_version=line.model_version,
        release=line.label,
        build_id=line.build_id,
        node=line.node,
        worker=line.worker,
        attempt=line.attempt,
        duration_s=None if line.duration_s is None else round(line.duration_s, 6),
        message=line.message,
    )
    extra = {key: value for key, value in line.extra.items() if key not in _KEYS} if line.extra else {}
    try:
        fixed = _encoder.encode(written)
        return fixed[:-1] + b"," + _encoder.encode(extra)[1:] if extra else fixed
    except UnicodeEncodeError:  # half a surrogate pair, which an author's text may hold and UTF-8 may not
        return encode_line(_without_surrogates(line))


def decode_line(data: bytes) -> Line:
    """Read one line back.

    Raises:
        ValueError: it is no line of this log, or only a part of one, which a power cut can leave.
    """
    try:
        written = _decode_written(data)
        rest = _decode_dict(data)
        ts_ms = _unix_ms(written.ts)
    except (msgspec.DecodeError, ValueError, TypeError) as error:
        raise ValueError(f"not a line of this log: {error}") from None
    package, _, version = written.release.partition("==")
    return Line(
        ts_ms=ts_ms,
        level=written.level,
        event=written.event,
        message=written.message,
        request_ids=written.requests,
        run=written.run,
        pipeline=written.pipeline,
        tenant=written.tenant,
        model=written.model,
        model_version=written.model_version,
        package=package,
        release=version,
        build_id=written.build_id,
        node=written.node,
        worker=written.worker,
        attempt=written.attempt,
        duration_s=written.duration_s,
        extra={key: value for key, value in rest.items() if key not in _KEYS},
    )


def render(line: Line, *, utc_offset_s: int = 0, request: str = "", most_bytes: int = SHOWN_BYTES) -> str:
    """A line as a terminal shows it, without a line end: one line, and indented below it what has more than one.

    Args:
        line: the line.
        utc_offset_s: seconds to add for the reader's time zone.
        request: the id that is being followed: it stands for the batch where the line has it; else the first id does.
        most_bytes: what is below the line loses its first lines, and says how many, where all together would be more; 0 takes all.
    """
    moment = _EPOCH + timedelta(milliseconds=line.ts_ms, seconds=utc_offset_s)
    words = [moment.strftime("%H:%M:%S.") + f"{moment.microsecond // 1000:03d}", line.level, line.pipeline]
    words.append(line.model or line.tenant)
    words.append(f"v{line.model_version}" if line.model_version else "")
    words += [line.package, line.release]
    if line.request_ids:
        shown = request if request in line.request_ids else line.request_ids[0]
        others = len(line.request_ids) - 1
        words.append(f"req {shown}" + (f" +{others}" if others else ""))
    if line.run:
        words.append(f"run {line.run}")
    if line.attempt:
        words.append(f"try {line.attempt}")
    message, *below = line.message.rstrip("\n").split("\n")
    head = plain(" ".join(word for word in words if word)) + " | " + _text(line, message)
    below += str(line.extra.get(TRACEBACK, "")).rstrip("\n").split("\n") if TRACEBACK in line.extra else []
    below = [INDENT + plain(each) for each in below]
    return "\n".join([head, *(_fitting(below, most_bytes - len(head.encode())) if most_bytes else below)])


def _fitting(lines: list[str], most_bytes: int) -> list[str]:
    """The lines, or as many of the last ones as fit and how many were left out; the end of a traceback tells most."""
    sizes = [len(each.encode()) + 1 for each in lines]
    if sum(sizes) <= most_bytes:
        return lines
    left = most_bytes - 80  # the note's own room
    kept = 0
    while kept < len(lines) and (left := left - sizes[-kept - 1]) >= 0:
        kept += 1
    return [f"{INDENT}[{len(lines) - kept} lines are not shown here; see: millstream logs]", *lines[len(lines) - kept :]]


def plain(text: str) -> str:
    r"""Escape what is not printable (`\n`, `\x1b`), so that a text can neither leave its line nor steer a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


class Selection:
    """Which lines somebody wants to follow: those that meet every condition given; no condition takes all.

    Following a request also takes the lines of the run that it asked for, once a line has named both. `release` is a package,
    package==version or a build id; `level` is the least level.
    """

    def __init__(self, *, request: str = "", tenant: str = "", release: str = "", run: str = "", level: str = "debug") -> None:
        self._request = request
        self._tenant = tenant
        self._release = release
        self._run = run
        self._level = LEVELS.index(level)
        self._runs: set[str] = set()

    def takes(self, line: Line) -> bool:
        """Whether the line is wanted; to be asked in the order of the log."""
        if line.level in LEVELS and LEVELS.index(line.level) < self._level:
            return False
        if self._run and line.run != self._run:
            return False
        if self._tenant and self._tenant not in (line.tenant, line.model.partition(".")[0]):
            return False
        if self._release and self._release not in (line.package, line.label, line.build_id):
            return False
        return not self._request or self._is_of_request(line)

    def rules_out(self, data: bytes) -> bool:
        """Whether the bytes of a line tell without decoding that it is not wanted; true is certain, false is not.

        Following one request through a large log is a search for its id, and decoding every other line would be most of it.
        """
        if not self._request.isascii() or not self._request.isprintable() or '"' in self._request or "\\" in self._request:
            return False  # JSON may spell such an id in several ways
        named = (self._request, *self._runs) if self._request else ()
        return bool(named) and not any(name.encode() in data for name in named)

    def _is_of_request(self, line: Line) -> bool:
        if self._request in line.request_ids:
            if line.run:
                self._runs.add(line.run)
            return True
        return bool(line.run) and line.run in self._runs


def _text(line: Line, message: str) -> str:
    """What stands behind the bar: the author's words alone, else the event, the first line of its message and how long it took."""
    if line.event == AUTHOR:
        return plain(message)
    took = "" if line.duration_s is None else f" ({line.duration_s:.3f} s)"
    return plain(line.event) + (f": {plain(message)}" if message else "") + took


def _rfc3339(ts_ms: int) -> str:
    return (_EPOCH + timedelta(milliseconds=ts_ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _unix_ms(text: str) -> int:
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(milliseconds=1)


def _without_surrogates(line: Line) -> Line:
    def clean(value: object) -> object:
        if isinstance(value, str):
            return value.encode("utf-8", "backslashreplace").decode()
        if isinstance(value, tuple):
            return tuple(clean(item) for item in value)
        if isinstance(value, Mapping):
            return {str(clean(str(key))): clean(str(item)) for key, item in value.items()}
        return value

    return msgspec.structs.replace(line, **{name: clean(value) for name, value in msgspec.structs.asdict(line).items()})
