"""The readable log: how a line looks, that it survives the file, and who is shown it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream_server.core.logbook import Line, Selection, decode_line, encode_line, plain, render

AUTHORS = Line(
    ts_ms=43_391_482,
    level="info",
    event="author",
    message="flagged 3 of 288",
    request_ids=("01J9",),
    pipeline="detect",
    tenant="acme",
    model="acme.anomaly",
    model_version=2,
    package="anomaly",
    release="2.0.0",
    attempt=1,
)
texts = st.text(max_size=40)


def test_the_authors_line_says_on_one_line_which_release_did_what() -> None:
    """Time, level, pipeline, model, version, package, release, request and attempt stand before the author's words."""
    assert render(AUTHORS) == "12:03:11.482 info detect acme.anomaly v2 anomaly 2.0.0 req 01J9 try 1 | flagged 3 of 288"


def test_a_line_about_a_batch_shows_one_id_and_how_many_more() -> None:
    """The first id stands for the batch, or the one that the reader follows."""
    batch = msgspec.structs.replace(AUTHORS, event="dispatch", message="", request_ids=tuple(str(i) for i in range(500)), duration_s=0.25)

    assert "req 0 +499 try 1 | dispatch (0.250 s)" in render(batch)
    assert "req 73 +499 " in render(batch, request="73")


def test_what_does_not_apply_is_left_out() -> None:
    """A line of the node itself has no empty columns."""
    assert render(Line(ts_ms=0, level="warning", event="worker_died", message="killed")) == "00:00:00.000 warning | worker_died: killed"
    assert (
        render(Line(ts_ms=0, level="info", event="run_started", run="r1", tenant="acme")) == "00:00:00.000 info acme run r1 | run_started"
    )


def test_times_are_shown_in_the_readers_time_zone() -> None:
    """An offset is added to the time shown, never to the line."""
    assert render(AUTHORS, utc_offset_s=-3600).startswith("11:03:11.482 ")


@pytest.mark.parametrize("evil", ["a\r\x1b[2Jb", "\x9b31m", "\u2028x", "\u202egnp.exe", "\0", "\ud800"])
def test_no_text_can_leave_its_line_or_steer_the_terminal(evil: str) -> None:
    """Control, format and line separator characters are shown escaped, wherever they stand."""
    line = msgspec.structs.replace(AUTHORS, message=evil, request_ids=(evil,), tenant=evil, pipeline=evil, event=evil)

    assert render(line).isprintable()
    assert b"\n" not in encode_line(line)


def test_what_has_several_lines_stands_below_its_line_and_can_pass_for_no_other() -> None:
    """Further lines of a message, and the traceback of a failure, are indented and escaped line by line; names stay on the line."""
    forged = "failed\n12:03:11.482 info | forged\n\x1b[2J\n"
    line = msgspec.structs.replace(AUTHORS, event="result", message=forged, tenant="a\nb", model="", duration_s=0.25)
    traced = msgspec.structs.replace(line, message="failed", extra={"traceback": 'Traceback:\n  File "\x07"\n'})

    assert render(line).split("\n")[0].endswith(r" detect a\nb v2 anomaly 2.0.0 req 01J9 try 1 | result: failed (0.250 s)")
    assert render(line).split("\n")[1:] == ["    12:03:11.482 info | forged", r"    \x1b[2J"]
    assert render(traced).split("\n")[1:] == ["    Traceback:", r'      File "\x07"']
    assert render(msgspec.structs.replace(line, event="author")).split("\n")[0].endswith("| failed")


def test_of_a_long_traceback_a_terminal_shows_the_end() -> None:
    """What a node writes at once stays below the size that a pipe takes; whoever asks for all gets all."""
    line = msgspec.structs.replace(
        AUTHORS, extra={"traceback": "\n".join(f"frame {n} " + "x" * 90 for n in range(200)) + "\nValueError: the end"}
    )

    shown, whole = render(line), render(line, most_bytes=0)

    assert len(shown.encode()) <= 4000
    assert shown.split("\n")[1].endswith("lines are not shown here; see: millstream logs]")
    assert shown.endswith("    ValueError: the end")
    assert whole.count("\n") == 201


@given(texts)
def test_printable_text_is_shown_as_it_is_and_the_rest_escaped(text: str) -> None:
    """Escaping changes exactly the texts that are not printable."""
    assert plain(text).isprintable()
    assert (plain(text) == text) == text.isprintable()


@given(
    st.builds(
        Line,
        ts_ms=st.integers(0, 4_102_444_800_000),
        level=st.sampled_from(["debug", "info", "warning", "error"]),
        event=texts,
        message=texts,
        request_ids=st.lists(texts, max_size=4).map(tuple),
        run=texts,
        pipeline=texts,
        tenant=texts,
        model=texts,
        model_version=st.integers(0, 1000),
        package=st.text("abc-_", max_size=9),
        release=st.text("0123.", max_size=9),
        build_id=texts,
        node=texts,
        worker=st.integers(0, 100_000),
        attempt=st.integers(0, 9),
        duration_s=st.none() | st.integers(0, 10**9).map(lambda n: n / 10**6),
        extra=st.dictionaries(st.text("xyz", min_size=1), st.integers() | texts, max_size=3),
    )
)
def test_a_line_comes_back_from_the_file_as_it_was(line: Line) -> None:
    """Encoding and decoding a line gives the same line."""
    assert decode_line(encode_line(line)) == line


def test_facts_that_json_cannot_carry_are_written_as_text() -> None:
    """An object is written as its text, and a fixed key keeps its own value."""
    line = msgspec.structs.replace(AUTHORS, extra={"phase": ValueError("no"), "ts": "never", "level": "never"})

    assert decode_line(encode_line(line)) == msgspec.structs.replace(line, extra={"phase": "no"})


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"\xff", b'{"ts": 5}', b'{"ts": "2020"}', b'{"ts": "2020-01-01"}', encode_line(AUTHORS)[:-9]]
)
def test_what_is_no_whole_line_is_told_as_such(data: bytes) -> None:
    """Torn and foreign lines raise, so that a reader can skip them."""
    with pytest.raises(ValueError, match="not a line"):
        decode_line(data)


@pytest.mark.parametrize(
    ("conditions", "taken"),
    [
        ({}, True),
        ({"request": "01J9"}, True),
        ({"request": "other"}, False),
        ({"tenant": "acme"}, True),
        ({"tenant": "acm"}, False),
        ({"release": "anomaly"}, True),
        ({"release": "anomaly==2.0.0"}, True),
        ({"release": "anomaly==1.0.0"}, False),
        ({"run": "r"}, False),
        ({"level": "warning"}, False),
        ({"tenant": "acme", "request": "other"}, False),
    ],
)
def test_a_line_is_shown_to_who_asked_for_it(conditions: dict[str, str], taken: bool) -> None:
    """Every condition that is given must be met."""
    assert Selection(**conditions).takes(AUTHORS) is taken


def test_following_a_request_follows_the_run_that_it_asked_for() -> None:
    """Once a line names both the request and the run, lines of the run alone are shown too."""
    alone = Line(ts_ms=2, level="info", event="run_ended", run="r1")
    both = Line(ts_ms=1, level="info", event="intake", run="r1", request_ids=("a",))
    selection = Selection(request="a")

    assert [selection.takes(line) for line in (alone, both, alone)] == [False, True, True]
