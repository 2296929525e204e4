"""The golden records of Kafka callers: requests in every spelling with headers, and the partitions of keys.

    python tests/protocol/golden_records.py --write     writes protocol/golden/kafka-v1 anew

`v1` is that of the event type `io.millstream.pipeline.request.v1`; once a version of the platform that speaks it is released, its
files change only by records that are added. `protocol/golden/README.md` says how they are read.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

from millstream_server.core.echo import answer_headers
from millstream_server.core.log import Headers
from millstream_server.core.partitioner import murmur2, partition_of
from millstream_server.core.request import BadRequest, decode_request

FOLDER = Path(__file__).parents[2] / "protocol" / "golden" / "kafka-v1"
INPUT_RECORD = ("ml.pipeline.input", 3, 41)
"""Where the answered request lies in the examples of answers."""

BINARY = {
    "ce_specversion": "1.0",
    "ce_id": "01M7",
    "ce_type": "io.millstream.pipeline.request.v1",
    "ce_source": "/acme/billing",
    "ce_subject": "detect",
}
STRUCTURED = {"content-type": "application/cloudevents+json; charset=UTF-8"}
JSON = {"content-type": "application/json"}
EVENT = (
    b'{"specversion":"1.0","id":"01M7","type":"io.millstream.pipeline.request.v1","source":"/acme/billing","subject":"detect",'
    b'"datacontenttype":"application/json","data":{"readings":[{"value":1.5}]}}'
)
PARAMS = b'{"readings":[{"value":1.5}]}'
PLAIN = b'{"id":"01M7","pipeline":"detect","params":{"readings":[{"value":1.5}]}}'
ALL_FIELDS = (
    b'{"id":"01M7","pipeline":"detect","tenant":"acme","params":{"readings":[{"value":1.5}]},'
    b'"reply_to":"ml.reply.billing","timeout_s":2.5,"idempotency_key":"k-1"}'
)
TIMES = {"ce_time": "2026-11-21T07:48:06.250Z", "ce_expirytime": "2026-11-21T09:48:08.750+02:00"}
EVENT_OF_ALL = (
    EVENT[:-1]
    + b',"time":"2026-11-21T07:48:06.250Z","expirytime":"2026-11-21T07:48:08.750Z","tenant":"acme","replyto":"ml.reply.billing",'
    + b'"idempotencykey":"k-1","correlationid":"order-7","comexampleother":7}'
)
BASE64_EVENT = EVENT.replace(b'"data":' + PARAMS, b'"data_base64":"' + base64.b64encode(PARAMS) + b'"')
TRACE = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "acme=1"}


def _pairs(*parts: dict[str, str]) -> Headers:
    merged: dict[str, str] = {}
    for part in parts:
        merged |= part
    return tuple((name, text.encode()) for name, text in merged.items())


RECORDS: dict[str, tuple[Headers, bytes | None]] = {
    # the same request in the three spellings, the smallest and with all that can be said
    "plain": ((), PLAIN),
    "plain with all fields": ((), ALL_FIELDS),
    "binary event": (_pairs(BINARY, JSON), PARAMS),
    "binary event with all attributes": (
        _pairs(
            BINARY,
            JSON,
            TIMES,
            {"ce_tenant": "acme", "ce_replyto": "ml.reply.billing", "ce_idempotencykey": "k-1", "ce_correlationid": "order-7"},
        ),
        PARAMS,
    ),
    "structured event": (_pairs(STRUCTURED), EVENT),
    "structured event with all attributes": (_pairs(STRUCTURED), EVENT_OF_ALL),
    "structured event whose data are base64": (_pairs(STRUCTURED), BASE64_EVENT),
    "structured event whose headers repeat it": (_pairs(STRUCTURED, BINARY), EVENT),
    # what may be left out, and what is passed over
    "binary event without a content type": (_pairs(BINARY), PARAMS),
    "binary event without a value": (_pairs(BINARY), None),
    "binary event of another owner's type": (_pairs(BINARY, {"ce_type": "com.acme.order.created"}), PARAMS),
    "structured event without data": (_pairs(STRUCTURED), EVENT.replace(b',"data":' + PARAMS, b"")),
    "plain under headers of tracing": (_pairs(TRACE, {"x-team": "billing"}), PLAIN),
    "plain under headers of Spring": (
        (("kafka_replyTopic", b"ml.reply.billing"), ("kafka_correlationId", bytes(range(240, 256))), ("kafka_replyPartition", b"\0\0\0\7")),
        PLAIN,
    ),
    "binary event under headers of tracing": (_pairs(BINARY, TRACE), PARAMS),
    # headers that contradict the value or each other
    "a header says another id than the plain request": (_pairs({"ce_id": "02N8"}), PLAIN),
    "a binary event whose value is a plain request": (_pairs(BINARY), PLAIN),
    "a plain request under a header of an event": (_pairs({"ce_tenant": "acme"}), PLAIN),
    "the content type of an event over a plain request": (_pairs(STRUCTURED), PLAIN),
    "the content type of an event over something without an id": (_pairs(STRUCTURED), b'{"x":1}'),
    "an event without its content type": ((), EVENT),
    "a header says another tenant than the structured event": (_pairs(STRUCTURED, {"ce_tenant": "acme"}), EVENT),
    "two reply topics": (_pairs({"kafka_replyTopic": "ml.reply.other"}), ALL_FIELDS),
    "two ids": ((*_pairs(BINARY), ("ce_id", b"02N8")), PARAMS),
    "two tenants": ((*_pairs(BINARY), ("ce_tenant", b"a"), ("ce_tenant", b"b")), PARAMS),
    # events that are no requests
    "no specversion": (_pairs({k: v for k, v in BINARY.items() if k != "ce_specversion"}), PARAMS),
    "no id": (_pairs({k: v for k, v in BINARY.items() if k != "ce_id"}), b'{"id":"customer 7"}'),
    "no subject": (_pairs({k: v for k, v in BINARY.items() if k != "ce_subject"}), PARAMS),
    "no subject in a structured event": (_pairs(STRUCTURED), EVENT.replace(b'"subject":"detect",', b"")),
    "another specversion": (_pairs(BINARY, {"ce_specversion": "0.3"}), PARAMS),
    "a result as a request": (_pairs(BINARY, {"ce_type": "io.millstream.pipeline.result.v1"}), PARAMS),
    "an expirytime without a time": (_pairs(BINARY, {"ce_expirytime": "2026-11-21T07:48:08Z"}), PARAMS),
    "an expirytime before the time": (_pairs(BINARY, {"ce_time": "2026-11-21T08:00:00Z", "ce_expirytime": "2026-11-21T07:48:08Z"}), PARAMS),
    "a time without a zone": (_pairs(BINARY, {"ce_time": "2026-11-21T07:00:00", "ce_expirytime": "2026-11-21T07:48:08Z"}), PARAMS),
    "parameters in Avro": (_pairs(BINARY, {"content-type": "application/avro"}), b"\x00\x01"),
    "parameters that are no JSON": (_pairs(BINARY, JSON), b'{"readings":['),
    "a parameter that is NaN": (_pairs(BINARY, JSON), b'{"readings":[{"value":NaN}]}'),
    "a parameter that is NaN in a structured event": (_pairs(STRUCTURED), EVENT.replace(b"1.5", b"NaN")),
    "a dataref without data": (_pairs(BINARY, {"ce_dataref": "https://example.org/readings/7"}), None),
    "a batch of events": (_pairs({"content-type": "application/cloudevents-batch+json"}), b"[" + EVENT + b"]"),
    "a correlation that is too long": (_pairs({"kafka_correlationId": "c" * 1025}), PLAIN),
    "no value": ((), None),
    "no value under headers of tracing": (_pairs(TRACE), None),
}

KEYS = ("", "a", "acme", "default", "tenant-7", "01M7Y6RYZ9AM363Q3DTTZ0SQJM", "Überraschung", "acme.anomaly")


def record_line(headers: Headers, value: bytes | None) -> dict[str, object]:
    """A record as `millstream topics append` takes it."""
    said: dict[str, object] = {}
    for name, content in headers:
        try:
            one: object = content.decode()
        except UnicodeDecodeError:
            one = {"base64": base64.b64encode(content).decode()}
        before = said.get(name)
        said[name] = one if before is None else [*before, one] if isinstance(before, list) else [before, one]
    return {"headers": said, **({"tombstone": True} if value is None else {"value_base64": base64.b64encode(value).decode()})}


def record_of(line: dict[str, object]) -> tuple[Headers, bytes | None]:
    """The other way round."""
    said = line["headers"]
    assert isinstance(said, dict)
    pairs = [(name, one) for name, value in said.items() for one in (value if isinstance(value, list) else [value])]
    headers = tuple((name, one.encode() if isinstance(one, str) else base64.b64decode(one["base64"])) for name, one in pairs)
    return headers, None if line.get("tombstone") else base64.b64decode(str(line["value_base64"]))


def judged(headers: Headers, value: bytes | None) -> dict[str, object]:
    """What becomes of a record, and the headers of its answer."""
    try:
        envelope = decode_request(value, headers)
    except BadRequest as refused:
        if not refused.id:
            return {"verdict": "dead letter"}
        verdict: dict[str, object] = {
            "verdict": "invalid",
            "code": "bad_request",
            "id": refused.id,
            "path": refused.path,
            "reply_to": refused.reply_to,
        }
    else:
        names = ("id", "pipeline", "tenant", "reply_to", "timeout_s", "idempotency_key")
        verdict = {"verdict": "request", **{name: getattr(envelope, name) for name in names}, "params": bytes(envelope.params).decode()}
    answer = answer_headers(headers, value or b"", str(verdict["id"]), *INPUT_RECORD)
    return verdict | {"answer_headers": record_line(answer, None)["headers"]}


def records() -> str:
    cases = [{"name": name, "record": record_line(headers, value), **judged(headers, value)} for name, (headers, value) in RECORDS.items()]
    return json.dumps(cases, indent=1, ensure_ascii=False) + "\n"


def partitions() -> str:
    rows = [
        {"key": key, "murmur2": murmur2(key.encode()), "of_12": partition_of(key.encode(), 12), "of_3": partition_of(key.encode(), 3)}
        for key in KEYS
    ]
    return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"


def write() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "records.json").write_text(records(), encoding="utf-8")
    (FOLDER / "partitions.json").write_text(partitions(), encoding="utf-8")


if __name__ == "__main__" and "--write" in sys.argv:
    write()
