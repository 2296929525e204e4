"""`topics`: list them, read one as JSON lines, append JSON lines to one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from millstream_server.cli.frame import Group, Invocation, as_json, common, pass_invocation

if TYPE_CHECKING:
    from millstream_server.core.log import Log, Reader

_ONE_REQUEST = (
    'echo \'{"id": "r1", "pipeline": "anomaly_changes", "tenant": "acme", "params": {"readings": []}}\''
    " | millstream topics append ml.pipeline.input"
)
READ_AT_ONCE = 10_000
WAIT_S = 1.0


@click.group(
    cls=Group,
    examples=[
        ("millstream topics list", ""),
        ("millstream topics read ml.pipeline.output --json", "every result"),
        (_ONE_REQUEST, ""),
    ],
)
@common
def topics() -> None:
    """Look at topics, read one, append to one."""


@topics.command("list", examples=[("millstream topics list", ""), ("millstream topics list --json", "")])
@as_json
@common
@pass_invocation
def list_(invocation: Invocation, as_json: bool) -> None:
    """List the topics of the log: partitions, how long records are kept, and how many there are."""
    from millstream_server.cli.printing import print_json, print_table, span

    with invocation.ports() as ports:
        found = [(topic, ports.log.watermarks(topic.name)) for topic in sorted(ports.log.topics(), key=lambda topic: topic.name)]
    if as_json:
        print_json(
            [
                {
                    "topic": topic.name,
                    "partitions": topic.partitions,
                    "retention_ms": topic.retention_ms,
                    "compacted": topic.compacted,
                    "offsets": [{"partition": number, "start": mark.start, "end": mark.end} for number, mark in enumerate(marks)],
                }
                for topic, marks in found
            ]
        )
        return
    rows = [
        (
            topic.name,
            str(topic.partitions),
            "the last of each key" if topic.compacted else span(topic.retention_ms / 1000) if topic.retention_ms else "all",
            str(sum(mark.end - mark.start for mark in marks)),
        )
        for topic, marks in found
    ]
    print_table(("TOPIC", "PARTITIONS", "KEEPS", "OFFSETS IN USE"), rows, nothing="the log has no topics")


# --- read -----------------------------------------------------------------------------------------------------------------


@topics.command(
    examples=[
        ("millstream topics read ml.pipeline.output --json", "from the first record to the present end"),
        ("millstream topics read ml.pipeline.output --follow", "what comes from now on, until Ctrl-C"),
        ("millstream topics read ml.pipeline.output --follow --from-start --json", "both"),
        ("millstream topics read ml.pipeline.input --partition 3 --offset 120 -n 1", "one record"),
    ]
)
@click.argument("topic")
@click.option("--from-start", is_flag=True, help="Begin at the first record kept; so it is without --follow anyway.")
@click.option("--partition", type=click.IntRange(0), metavar="P", help="This partition only.")
@click.option("--offset", type=click.IntRange(0), metavar="N", help="Begin at this offset of --partition.")
@click.option("-n", "--limit", type=click.IntRange(1), metavar="N", help="End after so many records.")
@click.option("-f", "--follow", is_flag=True, help="Go on with records as they come; without --from-start or --offset only with those.")
@as_json
@common
@pass_invocation
def read(
    invocation: Invocation,
    topic: str,
    from_start: bool,
    partition: int | None,
    offset: int | None,
    limit: int | None,
    follow: bool,
    as_json: bool,
) -> None:
    """Print the records of a topic, one a line, up to the end that the topic has now.

    With --json each record is an object {topic, partition, offset, append_ms, key, headers, value}; a value that is not JSON
    comes as value_base64, a key that is not text as key_base64, and a record without a value says "tombstone": true.
    """
    from millstream_server.cli.printing import write_bytes
    from millstream_server.cli.records import as_text, encode_records
    from millstream_server.core.log import TopicPartition

    if offset is not None and partition is None:
        raise click.UsageError("--offset belongs to one partition: give --partition too")
    if offset is not None and from_start:
        raise click.UsageError("--offset and --from-start name two places to begin at")
    with invocation.ports() as ports:
        partitions = _partitions(ports.log, topic, partition)
        marks = ports.log.watermarks(topic)
        end_of = {number: marks[number].end for number in partitions}
        start = None if offset is None or partition is None else {TopicPartition(topic, partition): offset}
        reader = ports.log.reader([topic], from_end=follow and not from_start and offset is None, start=start)
        try:
            left = limit
            while left != 0:
                records = reader.poll(READ_AT_ONCE, WAIT_S)
                wanted = [r for r in records if r.partition in partitions and (follow or r.offset < end_of[r.partition])][:left]
                left = None if left is None else left - len(wanted)
                write_bytes(encode_records(wanted) if as_json else as_text(wanted))
                if not follow and (not records or _at_end(reader, topic, end_of)):
                    break
        finally:
            reader.close()


def _partitions(log: Log, topic: str, partition: int | None) -> range:
    """The partitions to read.

    Raises:
        UnknownTopic: the log has no such topic.
        Invalid: bad_input, the topic has no such partition.
    """
    from millstream_server.core.errors import Invalid, UnknownTopic

    info = next((found for found in log.topics() if found.name == topic), None)
    if info is None:
        raise UnknownTopic(topic)
    if partition is None:
        return range(info.partitions)
    if partition >= info.partitions:
        raise Invalid("bad_input", f"{topic} has the partitions 0 to {info.partitions - 1}, not {partition}", mend="millstream topics list")
    return range(partition, partition + 1)


def _at_end(reader: Reader, topic: str, end_of: dict[int, int]) -> bool:
    positions = {partition.partition: offset for partition, offset in reader.positions().items() if partition.topic == topic}
    return all(positions.get(partition, end) >= end for partition, end in end_of.items())


# --- append ---------------------------------------------------------------------------------------------------------------


@topics.command(
    examples=[
        (_ONE_REQUEST, ""),
        ("millstream topics append ml.pipeline.input < requests.jsonl > acknowledged.jsonl", ""),
        ('echo \'{"key": "acme", "headers": {"trace": "7"}, "value": {"x": 1}}\' | millstream topics append events', ""),
        ("echo /w== | millstream topics append ml.pipeline.input --raw --base64 --key acme", "a byte that is no JSON"),
    ]
)
@click.argument("topic")
@click.option("--raw", is_flag=True, help="Each line is the value, as it stands.")
@click.option("--base64", "coded", is_flag=True, help="With --raw: each line is the value in base64.")
@click.option("--key", metavar="TEXT", help="Key of records that name none.")
@common
@pass_invocation
def append(invocation: Invocation, topic: str, raw: bool, coded: bool, key: str | None) -> None:
    """Append the lines of standard input to a topic, one record each, and acknowledge each with a line.

    A line is a request, or any JSON object: it is the value, and its "tenant", if it has one, the key. Or it is a record as
    `topics read --json` prints them: {"value" | "value_base64" | "tombstone": true, "key"?, "headers"?, "partition"?}.

    Acknowledgements are JSON lines {topic, partition, offset} in the order of the input; what is acknowledged is durable. Lines
    that wait already go into one append together, so one process takes thousands a second. The first line that cannot be used ends
    the command; the lines before it are on the log.
    """
    from millstream_server.cli.printing import write_bytes
    from millstream_server.cli.records import LineFormat, append_stream

    if coded and not raw:
        raise click.UsageError("--base64 belongs to --raw; without it a line may hold value_base64")
    line_format = LineFormat(topic, raw=raw, coded=coded, key=None if key is None else key.encode())
    with invocation.ports() as ports:
        append_stream(ports.log, line_format, source=sys.stdin.fileno(), acknowledge=write_bytes)
