"""Records as lines: what `topics read` prints, `topics append` takes."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream_server import app
from millstream_server.cli.records import LineFormat, as_text, encode_records
from millstream_server.core.log import Outgoing, Record

from .conftest import RunCommand

INPUT = "ml.pipeline.input"

headers = st.lists(st.tuples(st.text("abc_-", min_size=1, max_size=5), st.binary(max_size=10)), max_size=3, unique_by=lambda h: h[0]).map(
    tuple
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
values = (
    st.binary(max_size=40) | json_values.map(lambda v: json.dumps(v).encode()) | json_values.map(lambda v: json.dumps(v, indent=2).encode())
)


@given(st.none() | values, st.none() | st.binary(max_size=12), headers)
def test_what_is_read_can_be_appended_again(value: bytes | None, key: bytes | None, given_headers: tuple[tuple[str, bytes], ...]) -> None:
    """A record that was printed and read back has the same key, headers and value, whatever bytes those are."""
    record = Record("events", 3, 7, 1234, key, value, given_headers)

    printed = encode_records([record])
    again = LineFormat("events").read(printed.rstrip(b"\n"))

    assert printed.count(b"\n") == 1
    assert (again.topic, again.partition, again.key, again.headers) == ("events", 3, key, given_headers)
    if value is None or (b"\n" not in value and b"\r" not in value):
        assert again.value == (value.strip(b" \t") if value is not None and _is_json(value) else value)
    else:
        assert again.value is not None
        assert again.value == value or json.loads(again.value) == json.loads(value)


def _is_json(value: bytes) -> bool:
    try:
        json.loads(value)
    except ValueError:
        return False
    return True


def test_a_line_has_the_fixed_members() -> None:
    """Each record is an object of topic, partition, offset, append time, key, headers and value."""
    record = Record(INPUT, 3, 7, 1234, b"acme", b'{"id": 1}', (("trace", b"x"),))

    assert json.loads(encode_records([record])) == {
        "topic": INPUT,
        "partition": 3,
        "offset": 7,
        "append_ms": 1234,
        "key": "acme",
        "headers": {"trace": "x"},
        "value": {"id": 1},
    }


@pytest.mark.parametrize("value", [b"\xff", b"{", b'"\xff"', b"NaN", b"", b"[1,]", b'{"a":1}x', b"[" * 100_000])
def test_a_value_that_is_not_json_comes_in_base64(value: bytes) -> None:
    """Nothing that a JSON reader would stumble over is embedded."""
    read = json.loads(encode_records([Record(INPUT, 0, 0, 0, None, value)]))

    assert base64.b64decode(read["value_base64"]) == value
    assert "value" not in read
    assert read["key"] is None


def test_a_record_without_a_value_says_so() -> None:
    """A tombstone has no value, and a JSON null is a value."""
    tombstone, null = [
        json.loads(line) for line in encode_records([Record("t", 0, 0, 0, b"k", None), Record("t", 0, 1, 0, b"k", b"null")]).splitlines()
    ]

    assert tombstone["tombstone"] is True
    assert "value" not in tombstone
    assert null["value"] is None
    assert "tombstone" not in null


def test_people_see_one_line_a_record_whatever_is_in_it() -> None:
    """Line ends and escape sequences of a value are shown, not obeyed."""
    text = as_text([Record("t", 2, 5, 0, b"\x1b]0;x\x07", b"a\nb\xff")]).decode()

    assert text == "2/5  \\x1b]0;x\\x07  a\\nb\\\\xff\n" or text.count("\n") == 1
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        (b'{"id": "r1", "pipeline": "p", "tenant": "acme"}', b"acme", b'{"id": "r1", "pipeline": "p", "tenant": "acme"}'),
        (b'{"id": "r1", "pipeline": "p"}', b"default", b'{"id": "r1", "pipeline": "p"}'),
        (b'{"id": "r1", "tenant": 5}', b"default", b'{"id": "r1", "tenant": 5}'),
        (b"[1, 2]", b"default", b"[1, 2]"),
        (b'{"key": "k", "value": {"x": 1}}', b"k", b'{"x": 1}'),
        (b'{"value_base64": "/w=="}', b"default", b"\xff"),
        (b'{"key_base64": "/w==", "tombstone": true}', b"\xff", None),
    ],
)
def test_a_line_is_a_request_or_a_record(line: bytes, key: bytes, value: bytes | None) -> None:
    """A request's tenant is its key; a line that names a value is a record as `topics read` prints them."""
    read = LineFormat("t", key=b"default").read(line)

    assert (read.key, read.value) == (key, value)


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"\xff",
        b'{"value_base64": "!"}',
        b'{"value": 1, "partition": "x"}',
        b'{"value": 1, "headers": {"a": 5}}',
        b'{"value": 1, "key": 5}',
        b"[" * 100_000,
    ],
)
def test_a_line_that_cannot_be_read_says_what_was_expected(line: bytes) -> None:
    """A fault is told as such, never appended as something else."""
    with pytest.raises(ValueError, match=r"\w"):
        LineFormat("t").read(line)


# --- the commands ---------------------------------------------------------------------------------------------------------


def test_appended_lines_are_acknowledged_in_order_and_read_back(millstream: RunCommand) -> None:
    """Each line is acknowledged with the place where its record lies, and is found there."""
    sent = [{"id": f"r{number}", "pipeline": "p", "tenant": f"t{number % 5}"} for number in range(3000)]

    done = millstream("topics", "append", INPUT, stdin="".join(json.dumps(request) + "\n" for request in sent))
    read = millstream("topics", "read", INPUT, "--json")

    places = [json.loads(line) for line in done.stdout.splitlines()]
    by_place = {(r["topic"], r["partition"], r["offset"]): r for r in map(json.loads, read.stdout.splitlines())}
    assert (done.returncode, read.returncode) == (0, 0)
    assert [by_place[(p["topic"], p["partition"], p["offset"])]["value"] for p in places] == sent
    assert len(by_place) == len(sent)
    assert {r["key"] for r in by_place.values()} == {"t0", "t1", "t2", "t3", "t4"}


def test_raw_lines_are_values_as_they_stand(millstream: RunCommand) -> None:
    """Bytes that no JSON holds can be appended, as they are or in base64, under a given key."""
    raw = millstream("topics", "append", INPUT, "--raw", "--key", "k", stdin=b"\xff\xfe\n")
    coded = millstream("topics", "append", INPUT, "--raw", "--base64", stdin="AAo=\n")
    read = millstream("topics", "read", INPUT, "--json")

    assert raw.returncode == coded.returncode == 0
    values = {record["value_base64"]: record["key"] for record in map(json.loads, read.stdout.splitlines())}
    assert values == {"//4=": "k", "AAo=": None}


def test_the_first_line_that_cannot_be_used_ends_the_command(millstream: RunCommand) -> None:
    """The error names the line; what stands before it is on the log and acknowledged, what stands behind it is not."""
    done = millstream("topics", "append", INPUT, stdin='{"id": "a"}\n\n{"id": "b"}\n{"id": \n{"id": "c"}\n')

    assert done.returncode == 3
    assert done.stdout.count("\n") == 2
    assert "error[bad-input]" in done.stderr
    assert "where: line 4 of standard input" in done.stderr


def test_a_record_that_is_too_large_is_named_by_its_line(millstream: RunCommand) -> None:
    """One too large record among many is found; those before it are on the log."""
    large = json.dumps({"id": "large", "pad": "x" * 200_000})
    lines = "".join(json.dumps({"id": f"r{number}"}) + "\n" for number in range(10)) + large + "\n"

    done = millstream("topics", "append", INPUT, stdin=lines, environ={"MILLSTREAM_LOG_MAX_RECORD_BYTES": "100000"})

    assert done.returncode == 3
    assert "error[record-too-large]" in done.stderr
    assert "where: line 11 of standard input" in done.stderr
    assert done.stdout.count("\n") == 10


@pytest.mark.parametrize("arguments", [["topics", "append", "no.such"], ["topics", "read", "no.such"]])
def test_an_unknown_topic_is_named(millstream: RunCommand, arguments: list[str]) -> None:
    """A topic that the log does not have ends both commands."""
    done = millstream(*arguments, stdin='{"id": "a"}\n')

    assert done.returncode == 3
    assert "error[unknown-topic]" in done.stderr


def test_reading_can_begin_at_an_offset_and_end_after_a_number(ports: app.Ports, millstream: RunCommand) -> None:
    """--partition, --offset and -n choose records; no other partition is printed."""
    ports.log.append([Outgoing(INPUT, str(number).encode(), partition=number % 2) for number in range(20)])
    ports.close()

    one = millstream("topics", "read", INPUT, "--partition", "1", "--offset", "4", "-n", "3", "--json")
    rest = millstream("topics", "read", INPUT, "--partition", "0", "--json")
    wrong = millstream("topics", "read", INPUT, "--partition", "99")

    assert [(r["partition"], r["offset"]) for r in map(json.loads, one.stdout.splitlines())] == [(1, 4), (1, 5), (1, 6)]
    assert [r["value"] for r in map(json.loads, rest.stdout.splitlines())] == list(range(0, 20, 2))
    assert wrong.returncode == 3


def test_an_empty_topic_is_read_at_once(millstream: RunCommand) -> None:
    """Where there is nothing to read, nothing is printed and the command ends."""
    done = millstream("topics", "read", INPUT, "--json")

    assert (done.returncode, done.stdout) == (0, "")


def test_the_list_of_topics_counts_what_is_kept(ports: app.Ports, millstream: RunCommand) -> None:
    """Each topic has its partitions, retention and first and next offset of each partition."""
    ports.log.append([Outgoing(INPUT, b"1", partition=0)])
    ports.close()

    listed = {topic["topic"]: topic for topic in json.loads(millstream("topics", "list", "--json").stdout)}
    table = millstream("topics", "list").stdout

    assert listed[INPUT]["offsets"][0] == {"partition": 0, "start": 0, "end": 1}
    assert listed["ml.release"]["compacted"] is True
    assert INPUT in table


def test_a_command_that_follows_sees_records_as_they_come(ports: app.Ports, data_dir: Path) -> None:
    """With --follow only new records are printed, each as soon as it is there."""
    import subprocess
    import sys
    import time

    from .conftest import clean_environment, run_command

    run_command("topics", "append", INPUT, "--data-dir", data_dir, stdin='{"id": "old"}\n')
    code = "from millstream_server.cli.main import main; main()"
    argv = [sys.executable, "-c", code, "topics", "read", INPUT, "--follow", "--json", "-n", "2", "--data-dir", str(data_dir)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=clean_environment(), text=True) as follower:
        time.sleep(1.0)  # it begins at the end that the topic has when it opens
        run_command("topics", "append", INPUT, "--data-dir", data_dir, stdin='{"id": "new1"}\n{"id": "new2"}\n')
        told, _ = follower.communicate(timeout=20)

    assert sorted(json.loads(line)["value"]["id"] for line in told.splitlines()) == ["new1", "new2"]
    assert follower.returncode == 0
