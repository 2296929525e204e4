"""Dead letters: listing, looking at their bytes, sending them again."""

from __future__ import annotations

import json

import pytest
from millstream_server import app
from millstream_server.core.log import INPUT
from millstream_server.core.request import Origin
from millstream_server.core.retry import dead_letter

from .conftest import RunCommand

REQUEST = b'{"id": "r1", "pipeline": "detect", "tenant": "acme"}'
NOT_JSON = b"\xff\x00{"


@pytest.fixture
def letters(ports: app.Ports) -> list[str]:
    """Two dead letters: a request that killed its worker, and bytes that nobody could read. Their names, in that order."""
    records = [
        dead_letter(
            value=value,
            key=b"acme",
            headers=(("trace", b"7"), ("binary", b"\xff")),
            origin=Origin(INPUT, 4, 17, 1_700_000_000_000, b"acme"),
            code=code,
            message=message,
            attempts=3,
        )
        for value, code, message in ((REQUEST, "worker_died", "it was killed"), (NOT_JSON, "undecodable", "not JSON"))
    ]
    appended = ports.log.append(records)
    ports.close()
    return [f"{place.partition}/{place.offset}" for place in appended]


def test_a_dead_letter_is_listed_with_its_reason_and_where_it_came_from(letters: list[str], millstream: RunCommand) -> None:
    """The listing has a line a letter; --json has the whole record."""
    table = millstream("dlq", "list")
    listed = json.loads(millstream("dlq", "list", "--json").stdout)

    assert "worker_died" in table.stdout
    assert [row["letter"] for row in listed] == letters
    assert [row["id"] for row in listed] == ["r1", ""]
    assert listed[0]["origin"] == f"{INPUT}/4/17"
    assert listed[0]["record"]["value"] == json.loads(REQUEST)
    assert "value_base64" in listed[1]["record"]


@pytest.mark.parametrize("name", ["r1", 0])
def test_a_letter_is_shown_by_its_place_or_by_the_id_of_its_request(letters: list[str], millstream: RunCommand, name: str | int) -> None:
    """Everything that is known of it is shown, its bytes included."""
    done = millstream("dlq", "show", letters[name] if isinstance(name, int) else name)

    assert done.returncode == 0
    for text in ("worker_died: it was killed", f"{INPUT}/4/17", "trace = 7", '"pipeline": "detect"', "attempts   3"):
        assert text in done.stdout


def test_bytes_that_are_no_text_are_shown_and_kept(letters: list[str], millstream: RunCommand) -> None:
    """On a terminal they are escaped; --raw gives them as they were."""
    shown = millstream("dlq", "show", letters[1])

    assert "(its id cannot be read)" in shown.stdout
    assert "\\x00{" in shown.stdout


def test_an_unknown_letter_is_told(letters: list[str], millstream: RunCommand) -> None:
    """Neither a place nor an id that is not there is taken for another."""
    done = millstream("dlq", "show", "99/99")

    assert done.returncode == 3
    assert "error[unknown-dead-letter]" in done.stderr


def test_a_replay_appends_the_original_bytes_as_a_new_record(letters: list[str], millstream: RunCommand) -> None:
    """Bytes, key and the caller's headers are as they were; a header names the record that died; the letters stay."""
    done = millstream("dlq", "replay", "--all", "--yes")
    records = [json.loads(line) for line in millstream("topics", "read", INPUT, "--json").stdout.splitlines()]

    assert done.returncode == 0
    assert "this appends 2 new records" in done.stderr
    assert [json.loads(line)["letter"] for line in done.stdout.splitlines()] == letters
    assert {record["key"] for record in records} == {"acme"}
    assert json.loads(REQUEST) in [record.get("value") for record in records]
    assert all(r["headers"] == {"trace": "7", "binary": {"base64": "/w=="}, "ms_replay_of": f"{INPUT}/4/17"} for r in records)
    assert len(json.loads(millstream("dlq", "list", "--json").stdout)) == 2


def test_a_replay_says_what_it_will_do_and_asks(letters: list[str], millstream: RunCommand) -> None:
    """Without --yes an answer is wanted; a no sends nothing."""
    refused = millstream("dlq", "replay", letters[0], stdin="n\n")
    nothing = millstream("topics", "read", INPUT)
    agreed = millstream("dlq", "replay", "r1", stdin="y\n")

    assert "this appends one new record to ml.pipeline.input" in refused.stderr
    assert "nothing was sent" in refused.stderr
    assert nothing.stdout == ""
    assert agreed.returncode == 0
    assert agreed.stdout.count("\n") == 1


def test_without_dead_letters_there_is_nothing_to_list_or_send(millstream: RunCommand) -> None:
    """An empty topic is no error."""
    assert json.loads(millstream("dlq", "list", "--json").stdout) == []
    assert millstream("dlq", "list").stderr == "no dead letters\n"
    assert millstream("dlq", "replay", "--all", "--yes").returncode == 0
