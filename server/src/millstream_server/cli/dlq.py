"""`dlq`: requests that ended dead or could not be read, and how to send them again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click
import msgspec

from millstream_server.cli.frame import Group, Invocation, as_json, common, pass_invocation

if TYPE_CHECKING:
    from millstream_server.core.log import Log, Outgoing, Record

_PLACE = re.compile(r"(\d+)/(\d+)\Z")
_OURS = re.compile(r"ms_")


class Letter(msgspec.Struct, frozen=True):
    """One dead letter: the record of the dead-letter topic, and what its headers say of the request."""

    record: Record
    origin: str
    code: str
    message: str
    attempt: str
    append_ms: int
    request_id: str
    pipeline: str

    @property
    def place(self) -> str:
        """partition/offset on the dead-letter topic: what commands name it by."""
        return f"{self.record.partition}/{self.record.offset}"


@click.group(cls=Group, examples=[("millstream dlq list", ""), ("millstream dlq replay 3/17", "after the cause is mended")])
@common
def dlq() -> None:
    """Look at dead letters and send them again."""


@dlq.command("list", examples=[("millstream dlq list", ""), ("millstream dlq list --json -n 20", "the newest twenty")])
@click.option("-n", "--limit", type=click.IntRange(1), metavar="N", help="At most so many, the newest.")
@as_json
@common
@pass_invocation
def list_(invocation: Invocation, limit: int | None, as_json: bool) -> None:
    """List dead letters, oldest first: where they came from and why they are here."""
    from millstream_server.cli.printing import SENTENCES, Column, brief_moment, moment, print_json, print_table

    with invocation.ports() as ports:
        letters = sorted(read_letters(ports.log), key=lambda letter: letter.record.append_ms)
    letters = letters if limit is None else letters[-limit:]
    if as_json:
        print_json([_as_json(letter) for letter in letters])
        return
    rows = [(x.place, moment(x.record.append_ms), x.request_id or "-", x.pipeline or "-", x.code, x.message) for x in letters]
    columns = ("LETTER", Column("DIED", brief_moment), "REQUEST", "PIPELINE", "CODE", Column("WHY", wraps=SENTENCES))
    print_table(columns, rows, nothing="no dead letters")


@dlq.command(
    examples=[
        ("millstream dlq show 3/17", "partition 3, offset 17 of the dead-letter topic"),
        ("millstream dlq show 01J9Z7M0C4", "by the request's id"),
        ("millstream dlq show 3/17 --raw > request.json", "the original bytes"),
    ]
)
@click.argument("letter", metavar="LETTER|REQUEST_ID")
@click.option("--raw", is_flag=True, help="Print the original bytes and nothing else.")
@as_json
@common
@pass_invocation
def show(invocation: Invocation, letter: str, raw: bool, as_json: bool) -> None:
    """Show one dead letter: where it came from, why it died, its headers and its bytes."""
    from millstream_server.cli.printing import facts, moment, print_json, write_bytes
    from millstream_server.cli.records import headers_as_json

    with invocation.ports() as ports:
        found = find_letters(ports.log, [letter])[0]
    if raw:
        write_bytes(found.record.value or b"")
        return
    if as_json:
        print_json(_as_json(found))
        return
    pairs = [
        ("letter", found.place),
        ("request", found.request_id or "(its id cannot be read)"),
        ("origin", f"{found.origin}, appended {moment(found.append_ms)}"),
        ("died", moment(found.record.append_ms)),
        ("why", f"{found.code}: {found.message}"),
        ("attempts", found.attempt),
        ("key", "-" if found.record.key is None else found.record.key.decode("utf-8", "backslashreplace")),
    ]
    pairs += [("header", f"{name} = {value}") for name, value in headers_as_json(found.record.headers).items() if not _OURS.match(name)]
    value = found.record.value
    pairs.append(("bytes", "(none)" if value is None else value.decode("utf-8", "backslashreplace")))
    for line in facts(pairs):
        click.echo(line)


@dlq.command(
    examples=[
        ("millstream dlq replay 3/17", "asks first"),
        ("millstream dlq replay 3/17 4/2 --yes", ""),
        ("millstream dlq replay --all --yes", "every letter that is here now"),
    ]
)
@click.argument("letters", nargs=-1, metavar="[LETTER|REQUEST_ID]...")
@click.option("--all", "everything", is_flag=True, help="All letters that are on the topic now.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common
@pass_invocation
def replay(invocation: Invocation, letters: tuple[str, ...], everything: bool, yes: bool) -> None:
    """Send dead letters again, as new requests with the original bytes, key and headers.

    Each is answered anew; its letter stays on the topic, so replaying it twice sends it twice. The header ms_replay_of names the
    record that died.
    """
    from millstream_server.core.log import INPUT

    if everything == bool(letters):
        raise click.UsageError("name the letters, or give --all; see: millstream dlq list")
    with invocation.ports() as ports:
        found = read_letters(ports.log) if everything else find_letters(ports.log, letters)
        if not found:
            click.echo("no dead letters", err=True)
            return
        records = "one new record" if len(found) == 1 else f"{len(found)} new records"
        click.echo(f"this appends {records} to {INPUT}; each will be run and answered again:", err=True)
        for letter in found[:10]:
            click.echo(f"  {letter.place}  {letter.request_id or '(no id)'}  {letter.code}  from {letter.origin}", err=True)
        if len(found) > 10:
            click.echo(f"  and {len(found) - 10} more", err=True)
        if not yes and not click.confirm("send them?", err=True):
            click.echo("nothing was sent", err=True)
            return
        appended = ports.log.append([replay_record(letter) for letter in found])
    for letter, place in zip(found, appended, strict=True):
        click.echo(msgspec.json.encode({"letter": letter.place, "id": letter.request_id, **msgspec.to_builtins(place)}).decode())


def read_letters(log: Log) -> list[Letter]:
    """Every dead letter that is kept."""
    from millstream_server.core.log import DLQ, TopicPartition

    ends = {TopicPartition(DLQ, number): mark.end for number, mark in enumerate(log.watermarks(DLQ))}
    reader = log.reader([DLQ])
    found: list[Letter] = []
    try:
        while any(reader.positions().get(partition, end) < end for partition, end in ends.items()):
            records = reader.poll(1000, 1.0)
            if not records:
                break  # what is left below the end was deleted meanwhile
            found += [_letter(record) for record in records]
    finally:
        reader.close()
    return found


def find_letters(log: Log, names: tuple[str, ...] | list[str]) -> list[Letter]:
    """The letters that are meant, by partition/offset or by request id (the newest of that id).

    Raises:
        Invalid: unknown_dead_letter.
    """
    from millstream_server.core.errors import Invalid

    letters = read_letters(log)
    by_name = {letter.request_id: letter for letter in letters if letter.request_id} | {letter.place: letter for letter in letters}
    for name in names:
        if name not in by_name:
            kind = "letter" if _PLACE.match(name) else "letter of a request"
            raise Invalid("unknown_dead_letter", f"there is no dead {kind} {name}; {len(letters)} are here")
    return [by_name[name] for name in dict.fromkeys(names)]


def replay_record(letter: Letter) -> Outgoing:
    """The new record: original bytes and key, the caller's own headers, and the coordinates of the record that died."""
    from millstream_server.core.log import INPUT, Outgoing

    own = tuple((name, value) for name, value in letter.record.headers if not _OURS.match(name))
    return Outgoing(INPUT, letter.record.value, letter.record.key, (*own, ("ms_replay_of", letter.origin.encode())))


def _letter(record: Record) -> Letter:
    from millstream_server.core.request import named

    headers = {name: value.decode("utf-8", "backslashreplace") for name, value in record.headers}
    id, pipeline = named(record.value, record.headers)  # empty where they cannot be read: that is why it is here
    origin = "/".join(headers.get(f"ms_origin_{part}", "?") for part in ("topic", "partition", "offset"))
    append_ms = headers.get("ms_append_ms", "")
    return Letter(
        record,
        origin,
        headers.get("ms_error_code", "?"),
        headers.get("ms_error_message", ""),
        headers.get("ms_attempt", "?"),
        int(append_ms) if append_ms.isdigit() else 0,
        id,
        pipeline,
    )


def _as_json(letter: Letter) -> dict[str, object]:
    from millstream_server.cli.records import encode_records

    return {
        "letter": letter.place,
        "id": letter.request_id,
        "pipeline": letter.pipeline,
        "code": letter.code,
        "message": letter.message,
        "origin": letter.origin,
        "attempt": int(letter.attempt) if letter.attempt.isdigit() else None,
        "record": msgspec.Raw(encode_records([letter.record]).rstrip(b"\n")),
    }
