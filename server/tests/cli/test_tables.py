"""Tables give way to narrow terminals and lose nothing; large values are told in one line."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream_server.cli.printing import SENTENCES, Column, brief_moment, count, cut, moment, params_in_short, table

RUN = "01J9Z7M0C4ABCDEFGHJKMNPQRS"
TIME = datetime.now().astimezone().strftime("%Y-11-21 04:57:02")
RELEASES = ("RELEASE", "BUILD", Column("DEPLOYED", brief_moment), Column("PIPELINES", count), Column("WHY", wraps=SENTENCES))
ROW = ("scales==0.1.0", "0.1.0+7ae4ee4175e0", TIME, "scales_train, scales_weigh, scales_judge", "current, it answers for 12 models")


def test_where_no_terminal_is_nothing_is_cut() -> None:
    """Columns are as wide as their widest cell; of several lines only the first is shown, and no cell steers the terminal."""
    lines = table(("A", Column("LONG", count, wraps=SENTENCES)), [("xyz", "value\nTraceback"), ("b\t", "v, " * 300)])

    assert lines == ["A    LONG", "xyz  value", "b\\t  " + ("v, " * 300).rstrip()]
    assert (cut("abc", 3), cut("abcdef", 5)) == ("abc", "ab...")


def test_columns_are_spelt_shorter_only_as_far_as_they_must() -> None:
    """First the earlier, and none where all of them fit; then a text goes on below itself."""
    whole, brief, narrow = (table(RELEASES, [ROW], width=width) for width in (140, 120, 90))

    assert whole == table(RELEASES, [ROW])
    assert "11-21 04:57  scales_train, " in brief[1]
    assert "  3          current" in narrow[1]
    assert narrow[1].startswith("scales==0.1.0  0.1.0+7ae4ee4175e0  11-21 04:57  3 ")
    assert [len(lines) for lines in (whole, brief, narrow)] == [2, 3, 3]


def test_what_has_no_place_beside_stands_below() -> None:
    """Headers and cells alike, from the right; an id is never parted."""
    columns = ("RUN", "STATE", "PIPELINE", Column("CREATED", brief_moment), "TOOK", Column("WHY", wraps=SENTENCES))
    lines = table(columns, [(RUN, "FAILED", "sensors_train", TIME, "12 min 5 s", "it raised ValueError: " + "no " * 30)], width=70)

    assert lines == [
        f"{'RUN':<26}  STATE   PIPELINE       CREATED",
        "    TOOK  WHY",
        f"{RUN}  FAILED  sensors_train  11-21 04:57",
        "    12 min 5 s  it raised ValueError: no no no no no no no no no no no",
        "    " + "no " * 18 + "no",
    ]


CELLS = st.text("ab ,\n", max_size=60)


@given(st.lists(st.tuples(CELLS, CELLS, CELLS, CELLS), min_size=1, max_size=4), st.integers(1, 120))
def test_no_word_is_lost_at_any_width(rows: list[tuple[str, ...]], width: int) -> None:
    """Whatever is in the cells; and a line is too long only where a word, or the first column, is."""
    columns = ("A", Column("B", wraps=20), "C", Column("D", wraps=10))
    lines = table(columns, rows, width=width)

    def words(text: list[str]) -> list[str]:
        return sorted(word for line in text for word in line.split())

    assert words(lines) == words(table(columns, rows))
    longest = max((len(word) for line in lines for word in line.split()), default=0)
    first = max(len(row[0]) for row in rows)
    assert all(len(line) <= max(width, longest + 4, first) for line in lines)


def test_several_columns_may_wrap() -> None:
    """Each goes on below itself, and the earlier has what room there is."""
    columns = ("SETTING", Column("VALUE", wraps=8), Column("ORIGIN", wraps=6))

    assert table(
        columns, [("node.topics", "a.reply b.reply c.reply", "environment NODE_TOPICS"), ("node.name", "n", "default")], width=43
    ) == [
        "SETTING      VALUE              ORIGIN",
        "node.topics  a.reply b.reply    environment",
        "             c.reply            NODE_TOPICS",
        "node.name    n                  default",
    ]


def test_a_time_is_told_in_short() -> None:
    """Month, day and minute of this year, the day of another; a dash stays one."""
    assert (brief_moment(TIME), brief_moment("2019-01-02 03:04:05"), brief_moment(moment(0))) == ("11-21 04:57", "2019-01-02", "-")


@pytest.mark.parametrize(("names", "number"), [("a, b, c", "3"), ("a", "1"), ("-", "-"), ("", "")])
def test_names_become_their_number(names: str, number: str) -> None:
    """Nothing stays nothing."""
    assert count(names) == number


def test_short_parameters_are_told_as_they_are() -> None:
    """Up to two hundred characters, also such as are no JSON."""
    assert params_in_short(b'{"factor": 3}') == '{"factor": 3}'
    assert params_in_short(b"\xff{") == "\\xff{"


def test_of_large_parameters_each_member_has_one_line() -> None:
    """Small ones whole, of large ones what they are and their size, and of very many the first thirty."""
    params = {"factor": 3, "samples": [[10, 1.5]] * 60, "named": {str(n): "x" for n in range(100, 200)}, "text": "y" * 300}
    many = {f"p{n}": "z" * 20 for n in range(1000)}

    assert params_in_short(json.dumps(params, indent=1).encode()).split("\n") == [
        "factor: 3",
        "samples: 60 items, 541 bytes; all of it: --json",
        "named: 100 members, 1.0 kB; all of it: --json",
        'text: "' + "y" * 56 + "..., 302 bytes; all of it: --json",
    ]
    assert params_in_short(json.dumps(many).encode()).split("\n")[29:] == [
        'p29: "zzzzzzzzzzzzzzzzzzzz"',
        "and 970 more; all of them: --json",
    ]


@pytest.mark.parametrize(
    "value", [b"\xff" * 300, b"[" + b"1," * 300 + b"1]", b'{"a": 1' + b"0" * 5000 + b"}", b'{"a": "\xff' + b"a" * 300 + b'"}']
)
def test_parameters_that_cannot_be_told_by_member_are_told_by_size(value: bytes) -> None:
    """What callers sent is kept as it came, and nothing of it breaks the screen."""
    said = params_in_short(value)

    assert said.endswith("; all of it: --json")
    assert len(said) < 120
