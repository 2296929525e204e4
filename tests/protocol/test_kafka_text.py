"""`protocol/kafka/README.md` says what the platform does: a stranger writes a caller from it alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from golden_records import FOLDER
from millstream_server.core.cloudevents import EVENT_HEADERS, REQUEST_TYPE, RESULT_TYPE, Event
from millstream_server.core.echo import RESULT_SOURCE
from millstream_server.core.envelope import Envelope
from millstream_server.core.errors import CODES
from millstream_server.core.log import DLQ, INPUT, OUTPUT, Headers
from millstream_server.core.request import CORRELATIONS, REPLY_PARTITION, REPLY_TOPIC, decode_request
from millstream_server.core.result import Result, ResultError, Status

from docs.run_blocks import blocks_of

KAFKA = Path(__file__).parents[2] / "protocol" / "kafka"
TEXT = (KAFKA / "README.md").read_text(encoding="utf-8")
RECORDS = [block.text for block in blocks_of(TEXT) if block.language == "record"]

REQUEST_CODES = [name for name in CODES if [*CODES].index(name) <= [*CODES].index("undecodable")]
"""Those of requests, which the list of codes holds first."""


def read_record(text: str) -> tuple[Headers, bytes]:
    """A record as the text spells it."""
    headers, value = [], b""
    for line in text.splitlines():
        what, rest = re.split(r" +", line, maxsplit=1)
        if what == "header":
            name, said = re.split(r" +", rest, maxsplit=1)
            headers.append((name, said.encode()))
        elif what == "value":
            value = rest.encode()
    return tuple(headers), value


def test_the_records_shown_are_one_request_in_three_spellings() -> None:
    """Each is a whole record; decoded they are equal, and so are they to what the golden records hold."""
    plain, binary, structured = (decode_request(value, headers) for headers, value in map(read_record, RECORDS))

    assert plain == binary == structured
    golden = {case["name"]: case for case in msgspec.json.decode((FOLDER / "records.json").read_bytes())}
    case = golden["plain with all fields"]
    assert {name: getattr(plain, name) for name in ("id", "pipeline", "tenant", "reply_to", "timeout_s", "idempotency_key")} == {
        name: case[name] for name in ("id", "pipeline", "tenant", "reply_to", "timeout_s", "idempotency_key")
    }
    assert bytes(plain.params).decode() == case["params"]


@pytest.mark.parametrize(
    "word",
    [
        *(field.encode_name for field in msgspec.structs.fields(Envelope)),
        *(field.encode_name for field in msgspec.structs.fields(Event)),
        *(field.encode_name for field in msgspec.structs.fields(Result)),
        *(field.encode_name for field in msgspec.structs.fields(ResultError)),
        *sorted(EVENT_HEADERS - {"ce_dataref"}),
        *CORRELATIONS,
        *get_args(Status),
        *(name for name in REQUEST_CODES if name != "undecodable"),
        *(INPUT, OUTPUT, DLQ, REPLY_TOPIC, REPLY_PARTITION, REQUEST_TYPE, "traceparent", "tracestate"),
    ],
)
def test_everything_that_can_be_said_is_in_the_text(word: str) -> None:
    """Members, headers, statuses, codes and topics, each as a caller spells it."""
    assert re.search(rf"[`{{ ,]{re.escape(word)}[`}},]", TEXT), word


def test_what_results_of_events_carry_is_in_the_text() -> None:
    """Their fixed headers, value and all."""
    for header in ("content-type: application/json", f"ce_type: {RESULT_TYPE}", f"ce_source: {RESULT_SOURCE}", "ce_specversion: 1.0"):
        assert f"`{header}`" in TEXT, header


def test_the_status_of_every_code_in_the_text_is_that_of_the_program() -> None:
    """The table of statuses lists each code where it ends."""
    rows = dict(re.findall(r"^\| `(ok|invalid|failed|expired|dead|cancelled)` \|.*\| (.*) \|$", TEXT, re.MULTILINE))

    for name in REQUEST_CODES:
        if name not in ("undecodable", "reply_topic_unavailable"):
            assert f"`{name}`" in rows[CODES[name].kind], name
