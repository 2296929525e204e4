"""Records of Kafka callers, in every spelling, end as the golden files say."""

from __future__ import annotations

import json

import pytest
from golden_records import FOLDER, RECORDS, judged, partitions, record_line, record_of
from millstream_server.cli.records import LineFormat
from millstream_server.core.log import INPUT

CASES = json.loads((FOLDER / "records.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_every_golden_record_ends_as_its_file_says(case: dict[str, object]) -> None:
    """The decoder and the headers of the answer, for callers in every language."""
    line = case["record"]
    assert isinstance(line, dict)

    expected = {name: said for name, said in case.items() if name not in ("name", "record")}
    assert judged(*record_of(line)) == expected


@pytest.mark.parametrize("name", RECORDS)
def test_a_golden_record_is_a_line_that_topics_append_takes(name: str) -> None:
    """So the file can be replayed against a running platform by the command alone."""
    headers, value = RECORDS[name]

    read = LineFormat(INPUT).read(json.dumps(record_line(headers, value)).encode())

    assert sorted(read.headers) == sorted(headers)
    assert read.value == value


def test_the_three_spellings_of_one_request_are_one_request() -> None:
    """Whatever can be said in one can be said in the others."""
    by_name = {case["name"]: case for case in CASES}
    smallest = [by_name[name] for name in ("plain", "binary event", "structured event", "structured event whose data are base64")]
    whole = [
        by_name[name]
        for name in ("plain with all fields", "binary event with all attributes", "structured event with all attributes")
    ]  # fmt: skip

    for same in (smallest, whole):
        said = [{name: case[name] for name in case if name not in ("name", "record", "answer_headers")} for case in same]
        assert all(one == said[0] for one in said), said


def test_the_golden_files_hold_every_record_of_the_list() -> None:
    """A record that is added to the list is written to the files: tests/protocol/golden_records.py --write."""
    assert [case["name"] for case in CASES] == [*RECORDS]
    assert (FOLDER / "partitions.json").read_text(encoding="utf-8") == partitions()
