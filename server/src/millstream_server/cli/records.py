"""Records as lines: what `topics read` prints and what `topics append` takes.

Both sides agree, so that the one's output is the other's input. Made for tens of thousands of records a second: values stay
bytes, and lines that wait already are appended together.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable, Iterator, Sequence

import msgspec

from millstream_server.core.errors import Invalid, RecordTooLarge
from millstream_server.core.log import Appended, Headers, Log, Outgoing, Record
from millstream_server.core.logbook import plain

CHUNK_BYTES = 1 << 20
MOST_AT_ONCE = 2000
"""Records of one append; more would only let its acknowledgements wait."""

UNSET = msgspec.UNSET


class RecordLine(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A record as `topics read --json` prints it."""

    topic: str
    partition: int
    offset: int
    append_ms: int
    key: str | msgspec.UnsetType | None = UNSET
    key_base64: str | msgspec.UnsetType = UNSET
    headers: dict[str, object] | msgspec.UnsetType = UNSET
    value: msgspec.Raw | msgspec.UnsetType = UNSET
    value_base64: str | msgspec.UnsetType = UNSET
    tombstone: bool = False


_encoder = msgspec.json.Encoder()
_check_json = msgspec.json.Decoder(msgspec.Raw).decode
_NO_HEADERS: dict[str, object] = {}


def encode_records(records: Sequence[Record]) -> bytes:
    """Records as JSON lines."""
    if not records:
        return b""
    encode = _encoder.encode
    lines = [encode(_line(record)) for record in records]
    lines.append(b"")
    return b"\n".join(lines)


def as_text(records: Sequence[Record]) -> bytes:
    """Records for people: partition, offset, key and value on one line, which nothing in them can leave."""
    lines: list[str] = []
    for record in records:
        key = "-" if record.key is None else record.key.decode("utf-8", "backslashreplace")
        value = "(tombstone)" if record.value is None else record.value.decode("utf-8", "backslashreplace")
        lines.append(plain(f"{record.partition}/{record.offset}  {key}  {value}") + "\n")
    return "".join(lines).encode()


def _line(record: Record) -> RecordLine:
    key: str | msgspec.UnsetType | None = None
    key_base64: str | msgspec.UnsetType = UNSET
    if record.key is not None:
        try:
            key = record.key.decode()
        except UnicodeDecodeError:
            key, key_base64 = UNSET, _base64(record.key)
    raw, coded = _value(record.value)
    return RecordLine(
        record.topic,
        record.partition,
        record.offset,
        record.append_ms,
        key,
        key_base64,
        headers_as_json(record.headers) if record.headers else _NO_HEADERS,
        raw,
        coded,
        record.value is None,
    )


def _value(value: bytes | None) -> tuple[msgspec.Raw | msgspec.UnsetType, str | msgspec.UnsetType]:
    """The value as JSON to embed where it is JSON on one line, minified where it has several, else as base64."""
    if value is None:
        return UNSET, UNSET
    try:
        raw = _check_json(value)
        if not value.isascii():
            value.decode()  # the check above passes over the bytes of strings
        if b"\n" in value or b"\r" in value:
            raw = msgspec.Raw(msgspec.json.format(value, indent=-1))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return UNSET, _base64(value)
    return raw, UNSET


def headers_as_json(headers: Headers) -> dict[str, object]:
    """Headers as an object: text, or `{"base64": ...}` where it is not; a list where a name stands several times."""
    found: dict[str, object] = {}
    for name, value in headers:
        try:
            one: object = value.decode()
        except UnicodeDecodeError:
            one = {"base64": _base64(value)}
        if name not in found:
            found[name] = one
        else:
            before = found[name]
            found[name] = [*before, one] if isinstance(before, list) else [before, one]
    return found


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


# --- lines in -------------------------------------------------------------------------------------------------------------


class _Given(msgspec.Struct, frozen=True):
    """What a line of `topics append` may say; other members are the value's own."""

    key: str | msgspec.UnsetType | None = UNSET
    key_base64: str | msgspec.UnsetType = UNSET
    headers: dict[str, object] | msgspec.UnsetType = UNSET
    value: msgspec.Raw | msgspec.UnsetType = UNSET
    value_base64: str | msgspec.UnsetType = UNSET
    tombstone: bool = False
    partition: int | None = None


class _Tenant(msgspec.Struct, frozen=True):
    tenant: str = ""


_decode_given = msgspec.json.Decoder(_Given).decode
_decode_tenant = msgspec.json.Decoder(_Tenant).decode


class LineFormat(msgspec.Struct, frozen=True):
    """How lines are to be read: `raw` takes each as the value (`coded`: in base64); `key` is for records that name none."""

    topic: str
    raw: bool = False
    coded: bool = False
    key: bytes | None = None

    def read(self, line: bytes) -> Outgoing:
        """Read one line.

        Raises:
            ValueError: saying what was expected.
        """
        if self.raw:
            return Outgoing(self.topic, _unbase64(line, "the line") if self.coded else line, self.key)
        try:
            given = _decode_given(line)
        except msgspec.ValidationError as error:
            given = self._only_value(line, error)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(f"not JSON: {error} (with --raw a line may be anything)") from None
        if given.value is UNSET and given.value_base64 is UNSET and not given.tombstone:
            return Outgoing(self.topic, line.strip(), _tenant_of(line) or self.key)
        return Outgoing(self.topic, _given_value(given), _given_key(given, self.key), _given_headers(given), given.partition)

    @staticmethod
    def _only_value(line: bytes, error: msgspec.ValidationError) -> _Given:
        """A line that is JSON and no object, or has members of other types, is a value; but not where it says "value" itself."""
        try:
            decoded = msgspec.json.decode(line)
        except (msgspec.DecodeError, RecursionError) as fault:
            raise ValueError(f"not JSON: {fault} (with --raw a line may be anything)") from None
        if isinstance(decoded, dict) and decoded.keys() & {"value", "value_base64", "tombstone"}:
            raise ValueError(str(error)) from None
        return _Given()


def _tenant_of(line: bytes) -> bytes | None:
    try:
        return _decode_tenant(line).tenant.encode() or None
    except (msgspec.ValidationError, UnicodeEncodeError):
        return None


def _given_value(given: _Given) -> bytes | None:
    if given.tombstone:
        return None
    if isinstance(given.value_base64, str):
        return _unbase64(given.value_base64, "value_base64")
    assert isinstance(given.value, msgspec.Raw)
    return bytes(given.value)


def _given_key(given: _Given, otherwise: bytes | None) -> bytes | None:
    if isinstance(given.key_base64, str):
        return _unbase64(given.key_base64, "key_base64")
    return otherwise if given.key is UNSET or given.key is None else str(given.key).encode()


def _given_headers(given: _Given) -> Headers:
    if not isinstance(given.headers, dict):
        return ()
    return tuple(
        (name, _header_value(name, one)) for name, value in given.headers.items() for one in (value if isinstance(value, list) else [value])
    )


def _header_value(name: str, value: object) -> bytes:
    match value:
        case str():
            return value.encode()
        case {"base64": str(coded)}:
            return _unbase64(coded, f"header {name}")
    raise ValueError(f'header {name} is text or {{"base64": ...}}, this is {value!r}')


def _unbase64(text: str | bytes, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{what} is not base64: {error}") from None


class _Acknowledged(msgspec.Struct, frozen=True, gc=False):
    topic: str
    partition: int
    offset: int


def append_stream(log: Log, line_format: LineFormat, *, source: int, acknowledge: Callable[[bytes], None]) -> int:
    """Append the lines of a file descriptor until its end, and acknowledge each batch when it is durable.

    Returns:
        How many records were appended.

    Raises:
        Invalid: bad_input or record_too_large, naming the line; those before it were appended and acknowledged.
    """
    number = appended = 0
    for lines in _waiting_lines(source):
        for start in range(0, len(lines), MOST_AT_ONCE):
            part = list(enumerate(lines[start : start + MOST_AT_ONCE], number + start + 1))
            records, fault = _read_lines(line_format, part)
            if records:
                _append(log, records, acknowledge)
                appended += len(records)
            if fault is not None:
                raise fault
        number += len(lines)
    return appended


def _waiting_lines(source: int) -> Iterator[list[bytes]]:
    """All whole lines that can be had without waiting, as often as there are some."""
    rest = b""
    while chunk := os.read(source, CHUNK_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        if lines:
            yield lines
    if rest:
        yield [rest]


Numbered = tuple[int, Outgoing]
"""The number of an input line, from 1, and the record that it makes."""


def _read_lines(line_format: LineFormat, lines: list[tuple[int, bytes]]) -> tuple[list[Numbered], Invalid | None]:
    """Read lines up to the first that cannot be read; empty ones are passed over."""
    records: list[Numbered] = []
    for number, line in lines:
        if not line or line.isspace():
            continue
        try:
            records.append((number, line_format.read(line)))
        except ValueError as error:
            mend = "correct the line; see: millstream topics append --help"
            return records, Invalid("bad_input", str(error), where=_place(number), mend=mend)
    return records, None


def _append(log: Log, records: list[Numbered], acknowledge: Callable[[bytes], None]) -> None:
    try:
        done = log.append([record for _, record in records])
    except RecordTooLarge as error:
        if len(records) == 1:
            raise RecordTooLarge(error.message, where=_place(records[0][0])) from None
        for record in records:  # none of them was written: find the one that is too large
            _append(log, [record], acknowledge)
        return
    acknowledge(_acknowledgements(done))


def _place(number: int) -> str:
    return f"line {number} of standard input"


def _acknowledgements(done: Sequence[Appended]) -> bytes:
    encode = _encoder.encode
    return b"".join([encode(_Acknowledged(one.topic, one.partition, one.offset)) + b"\n" for one in done])
