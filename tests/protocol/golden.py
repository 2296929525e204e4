"""The golden messages of what crosses topics: what they are, and how the files are written.

    python tests/protocol/golden.py --write     for a new released version alone; files of a released version never change

`requests.json` holds spellings of requests and the verdict that every decoder must give; the other files hold one message each,
exactly as version 0.1.0 wrote it. `model-states-v2` holds states of models as later versions write them.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

import msgspec
from millstream_server.core.model import ModelState, ModelVersion, SignedArtifact, add_version, encode_model
from millstream_server.core.models_by_hand import delete_model, pin, promote
from millstream_server.core.release import Manifest, PackageState, PipelineSpec, Release, encode_package
from millstream_server.core.request import BadRequest, decode_request
from millstream_server.core.result import Durations, RecordRef, Result, ResultError, encode_result

FOLDER = Path(__file__).parents[2] / "protocol" / "golden" / "messages-0.1.0"
MODEL_STATES = FOLDER.with_name("model-states-v2")

REQUESTS: dict[str, bytes] = {
    "smallest": b'{"id":"1","pipeline":"detect"}',
    "all fields": (
        b'{"id":"01M7","pipeline":"detect","tenant":"acme","params":{"readings":[{"value":1.5}]},'
        b'"reply_to":"ml.reply.billing","timeout_s":2.5,"idempotency_key":"k-1"}'
    ),
    "spaces and unicode": ' { "id" : "é-1" , "pipeline" : "detect" , "params" : { "a" : "ü" } } '.encode(),
    "params that are no object are the worker's to refuse": b'{"id":"1","pipeline":"detect","params":[1,2]}',
    "no pipeline": b'{"id":"1"}',
    "unknown field": b'{"id":"1","pipeline":"detect","release":"2.0.0"}',
    "a tenant with a dot": b'{"id":"1","pipeline":"detect","tenant":"a.b"}',
    "a timeout as text": b'{"id":"1","pipeline":"detect","timeout_s":"2"}',
    "a negative timeout": b'{"id":"1","pipeline":"detect","timeout_s":-1}',
    "NaN": b'{"id":"1","pipeline":"detect","params":{"x":NaN}}',
    "half an object": b'{"id":"1","pipeline":"detect"',
    "no id": b'{"pipeline":"detect"}',
    "a number as id": b'{"id":7,"pipeline":"detect"}',
    "an empty id": b'{"id":"","pipeline":"detect"}',
    "not UTF-8": b'{"id":"\xff","pipeline":"detect"}',
    "not JSON": b"\x00\x01",
    "a list": b"[]",
}


def verdict(value: bytes) -> dict[str, object]:
    """What the decoder says of a record's value."""
    try:
        envelope = decode_request(value)
    except BadRequest as refused:
        if not refused.id:
            return {"verdict": "dead letter"}
        return {"verdict": "invalid", "code": "bad_request", "id": refused.id, "path": refused.path}
    fields = {name: getattr(envelope, name) for name in ("id", "pipeline", "tenant", "reply_to", "timeout_s", "idempotency_key")}
    return {"verdict": "request", **fields, "params": bytes(envelope.params).decode()}


def messages() -> dict[str, bytes]:
    """One message of each kind, as this version writes it."""
    spec = PipelineSpec(
        "detect",
        "inference",
        "anomaly.pipelines",
        "detect",
        "anomaly",
        "list",
        "readings",
        True,
        2.0,
        {"type": "object"},
        {"type": "array"},
        "Find anomalies.",
    )
    manifest = Manifest(
        1, "anomaly", "1.0.0", "1.0.0+0123456789ab", "3.11", ">=3.11", "0.1.0", "2026-11-21", ("anomaly",), "c0de", "10c5", (spec,)
    )
    release = Release(manifest, "anomaly-1.0.0-py3-none-any.whl", "5ba2", "CURRENT", "", 1_795_000_000_000)
    record = RecordRef("ml.pipeline.input", 3, 41)
    ok = Result(
        "1",
        "detect",
        "acme",
        "ok",
        record,
        "node-1",
        1,
        msgspec.Raw(b"[true]"),
        None,
        "anomaly==1.0.0",
        "1.0.0+0123456789ab",
        "acme.anomaly",
        1,
        Durations(0.01, 0.0, 0.002),
    )
    error = ResultError("no_model", "tenant acme has no model anomaly", "", "train it: millstream invoke train --tenant acme")
    refused = Result("1", "detect", "acme", "invalid", record, "node-1", 1, msgspec.UNSET, error)
    return {
        "result-ok.json": encode_result(ok),
        "result-invalid.json": encode_result(refused),
        "ModelCacheEvent.json": encode_model(_without_promotion(add_version(ModelState("acme", "anomaly"), _version()))),
        "ml.release.json": encode_package(PackageState("anomaly", 2, (release,))),
    }


def model_states() -> dict[str, bytes]:
    """States of one model: trained, changed by hand, and deleted."""
    first = add_version(ModelState("acme", "anomaly"), _version())
    second = add_version(first, _version(2))
    by_hand = promote(pin(second, _version()), _version(), "ada@workbench", 1_795_000_060_000)
    deleted, _ = delete_model(second, [_version(), _version(2)], "ada@workbench", 1_795_000_120_000)
    return {"trained.json": encode_model(first), "by-hand.json": encode_model(by_hand), "deleted.json": encode_model(deleted)}


def _version(number: int = 1) -> ModelVersion:
    return ModelVersion(
        number,
        "anomaly",
        "1.0.0",
        "1.0.0+0123456789ab",
        "01M7Y6RYZ9AM363Q3DTTZ0SQJM",
        1,
        "acme.anomaly/01M7Y6RYZ9AM363Q3DTTZ0SQJM-1",
        SignedArtifact('{"tenant":"acme"}', "c2ln", "0123456789abcdef"),
        1_795_000_000_000,
        {"rows": 2016.0},
        '{"source":"cpu.csv"}',
        1234,
    )


def _without_promotion(state: ModelState) -> ModelState:
    """As version 0.1.0 wrote it, which did not record who made the champion what it is."""
    return msgspec.structs.replace(state, promoted_by=msgspec.UNSET, promoted_ms=msgspec.UNSET)


def write() -> None:
    MODEL_STATES.mkdir(parents=True, exist_ok=True)
    for name, data in model_states().items():
        (MODEL_STATES / name).write_bytes(data + b"\n")
    FOLDER.mkdir(parents=True, exist_ok=True)
    cases = [{"name": name, "value_base64": base64.b64encode(value).decode(), **verdict(value)} for name, value in REQUESTS.items()]
    (FOLDER / "requests.json").write_text(json.dumps(cases, indent=1, ensure_ascii=False) + "\n")
    for name, data in messages().items():
        (FOLDER / name).write_bytes(data + b"\n")


if __name__ == "__main__" and "--write" in sys.argv:
    write()
