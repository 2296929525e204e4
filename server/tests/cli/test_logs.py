"""Reading the log of node and workers from its files, also while it is written and put aside."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from millstream_server.cli.logs import Tail
from millstream_server.core.logbook import Line, decode_line
from millstream_server.node.logbook import Logbook, entry

from .conftest import RunCommand


@contextlib.contextmanager
def book(folder: Path, *, max_bytes: int = 1 << 20, keep: int = 9) -> Iterator[Logbook]:
    writer = Logbook(folder, "node-1", level="debug", max_bytes=max_bytes, keep=keep, terminal=False)
    try:
        yield writer
    finally:
        writer.close()


def numbers(lines: object) -> list[int]:
    return [int(decode_line(data).message) for data in lines if data]  # type: ignore[attr-defined]


def test_files_put_aside_are_read_in_order_and_once(tmp_path: Path) -> None:
    """What was put aside comes first, oldest first, and every line once."""
    with book(tmp_path, max_bytes=800, keep=50) as writer:
        for number in range(60):
            writer.write(entry("intake", str(number)))

    assert len(list(tmp_path.iterdir())) > 3
    assert numbers(Tail(tmp_path).present()) == list(range(60))


def test_a_follower_misses_nothing_when_the_file_is_put_aside(tmp_path: Path) -> None:
    """Lines written between two looks are all seen, in order, even where the file was put aside several times between them."""
    with book(tmp_path, max_bytes=400, keep=50) as writer:
        writer.write(entry("intake", "0"))
        tail = Tail(tmp_path)
        seen = numbers(tail.present())

        for number in range(1, 100):
            writer.write(entry("intake", str(number)))
            if number % 17 == 0:
                seen += numbers(tail.news())
        seen += numbers(tail.news())

    assert seen == list(range(100))


def test_a_log_that_is_not_there_yet_is_followed_from_its_first_line(tmp_path: Path) -> None:
    """A follower may come before the node."""
    tail = Tail(tmp_path / "logs")
    assert list(tail.present()) == []

    with book(tmp_path / "logs") as writer:
        writer.write(entry("intake", "7"))

    assert numbers(tail.news()) == [7]


def test_a_line_that_is_being_written_is_not_cut_in_two(tmp_path: Path) -> None:
    """The first half of a line waits for its second."""
    path = tmp_path / "node.jsonl"
    path.write_bytes(b"")
    tail = Tail(tmp_path)
    list(tail.present())

    with path.open("ab", buffering=0) as file:
        file.write(b"first ha")
        assert list(tail.news()) == []
        file.write(b"lf\n")

    assert list(tail.news()) == [b"first half"]


@pytest.fixture
def written(data_dir: Path) -> list[Line]:
    """A log of two requests, one of which asked for a run, and of a node's own lines, with a torn line among them."""
    lines = [
        entry("node_started", "accepts requests"),
        entry("intake", "2 read", requests=("a", "b")),
        entry("submitted", "accepted as run r1", requests=("b",), run="r1", tenant="acme"),
        entry("author", "hello from a", requests=("a",), pipeline="detect", tenant="acme", model="acme.anomaly", model_version=2),
        entry("step", "fit", run="r1", tenant="acme"),
        entry("worker_died", "killed", level="error"),
    ]
    with book(data_dir / "logs") as writer:
        for number, line in enumerate(lines):
            writer.write(line)
            if number == 2:
                with (data_dir / "logs" / "node.jsonl").open("ab") as file:
                    file.write(b'{"ts": "2026-01-01T00\n')
    return lines


@pytest.mark.parametrize(
    ("arguments", "events"),
    [
        ([], ["node_started", "intake", "submitted", "author", "step", "worker_died"]),
        (["-n", "2"], ["step", "worker_died"]),
        (["--request", "a"], ["intake", "author"]),
        (["--request", "b"], ["intake", "submitted", "step"]),
        (["--request", "nobody"], []),
        (["--tenant", "acme"], ["submitted", "author", "step"]),
        (["--run", "r1"], ["submitted", "step"]),
        (["--level", "error"], ["worker_died"]),
        (["--request", "a", "--tenant", "acme"], ["author"]),
    ],
)
def test_lines_are_chosen_by_request_run_tenant_and_level(
    written: list[Line], millstream: RunCommand, arguments: list[str], events: list[str]
) -> None:
    """Following a request also shows the run that it asked for, and a torn line stops nobody."""
    done = millstream("logs", "--json", *arguments)

    assert done.returncode == 0
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == events


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--request", "nobody"], "no lines about request nobody in "),
        (["--run", "r9", "--tenant", "acme"], "no lines about tenant acme, run r9 in "),
        (["--release", "x==1"], "no lines about release x==1 in "),
        (["--request", "a", "--level", "error"], "no lines about request a of level error or above in "),
        (["--request", "a"], ""),
        (["-n", "0"], ""),
    ],
)
def test_where_no_line_is_wanted_that_is_said(written: list[Line], millstream: RunCommand, arguments: list[str], said: str) -> None:
    """An id that was misspelt must not look like a request without a story; it is no failure, and standard output stays empty."""
    done = millstream("logs", *arguments)

    assert done.returncode == 0
    assert done.stderr.startswith(said)
    assert bool(done.stderr) is bool(said)
    assert not (said and done.stdout)


def test_a_terminal_shows_one_line_a_event(written: list[Line], millstream: RunCommand) -> None:
    """Without --json the lines are rendered for reading."""
    done = millstream("logs", "--request", "a")

    assert done.stdout.splitlines()[-1].endswith(" info detect acme.anomaly v2 req a | hello from a")
    assert "req a +1 | intake: 2 read" in done.stdout
