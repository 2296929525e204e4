"""Writes the JSON Schemas of what crosses topics, from the structs that encode and decode them.

python protocol/make.py            write the *.schema.json files
python protocol/make.py --check    exit 1 when a file differs from what the code says
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from millstream_server.core.cloudevents import CONTENT_TYPE, EVENT_HEADERS, REQUEST_TYPE, RESULT_TYPE, Event
from millstream_server.core.echo import RESULT_SOURCE
from millstream_server.core.envelope import Envelope
from millstream_server.core.model import ModelState
from millstream_server.core.names import DEFAULT_TENANT, MAX_ID_CHARS, MAX_NAME_CHARS
from millstream_server.core.release import Manifest, PackageState
from millstream_server.core.request import CORRELATIONS, REPLY_PARTITION, REPLY_TOPIC
from millstream_server.core.result import Result
from millstream_server.core.retry import REPLAY_OF

HERE = Path(__file__).parent
DIALECT = "https://json-schema.org/draft/2020-12/schema"
RFC_3339 = r"^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$"

# Constraints that structs of the node check by code, because every request passes there.
Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_CHARS, description="The caller's own; it comes back in the result.")]
Pipeline = Annotated[str, msgspec.Meta(min_length=1, max_length=200, description="Name of the pipeline.")]
Tenant = Annotated[
    str, msgspec.Meta(pattern=f"^[A-Za-z0-9_-]{{1,{MAX_NAME_CHARS}}}$", description=f"Whose model; {DEFAULT_TENANT} where nobody says.")
]
Params = Annotated[dict[str, object], msgspec.Meta(description="Parameters of the pipeline; what it takes is its own.")]
Topic = Annotated[str, msgspec.Meta(description="Topic for the result, on the node's allow-list; without one ml.pipeline.output.")]
Seconds = Annotated[float, msgspec.Meta(ge=0, lt=1e9, description="Seconds from the record's append time; 0 is no limit.")]
Key = Annotated[
    str, msgspec.Meta(max_length=MAX_ID_CHARS, description="Of long work: the same key asks for the same run. Without one the id.")
]
Time = Annotated[str, msgspec.Meta(pattern=RFC_3339, description="By the caller's clock, which may be wrong.")]
Expiry = Annotated[str, msgspec.Meta(pattern=RFC_3339, description="By the same clock as time, which must be there too, and later.")]
Text = Annotated[str, msgspec.Meta(min_length=1)]
RequestType = Annotated[str, msgspec.Meta(min_length=1, description=f"{REQUEST_TYPE}, or a type of your own.")]
Correlation = Annotated[str, msgspec.Meta(description="Echoed in the result, up to 1,024 bytes of UTF-8. Without one the id.")]

PLAIN: dict[str, object] = {
    "id": Id,
    "pipeline": Pipeline,
    "tenant": Tenant,
    "params": Params,
    "reply_to": Topic,
    "timeout_s": Seconds,
    "idempotency_key": Key,
}
NEEDED: dict[str, object] = {"specversion": Literal["1.0"], "id": Id, "type": RequestType, "source": Text, "subject": Pipeline}
OPTIONAL: dict[str, object] = {
    "time": Time,
    "expirytime": Expiry,
    "tenant": Tenant,
    "replyto": Topic,
    "idempotencykey": Key,
    "dataref": Annotated[str, msgspec.Meta(description="Not fetched: an event that has it must have its data too.")],
}
DATA: dict[str, object] = {
    "correlationid": Correlation,
    "datacontenttype": Annotated[str, msgspec.Meta(description="application/json, or another that ends in +json.")],
    "data": Params,
    "data_base64": Annotated[str, msgspec.Meta(description="In place of data: their JSON in base64.")],
}


def _like(struct: type[msgspec.Struct], kinds: Mapping[str, object]) -> Mapping[str, object]:
    """The kinds, once it is sure that they speak of exactly the fields that the node reads."""
    read = {field.encode_name for field in msgspec.structs.fields(struct)}
    if read != kinds.keys():
        raise SystemExit(f"{struct.__name__} has {sorted(read)}, this file speaks of {sorted(kinds)}")
    return kinds


def _request() -> type:
    """The plain envelope as a caller sees it: `params` is an object, which the node leaves as bytes."""
    kinds = _like(Envelope, PLAIN)
    fields = [
        (f.name, kinds[f.name]) if f.required else (f.name, kinds[f.name], {} if f.name == "params" else f.default)
        for f in msgspec.structs.fields(Envelope)
    ]
    return msgspec.defstruct("Request", fields, forbid_unknown_fields=True)


def _event() -> type:
    """A structured event as a caller writes it; `null` is a member that is not there."""
    kinds = _like(Event, NEEDED | OPTIONAL | DATA)
    optional = [(name, kind | None, None) for name, kind in kinds.items() if name not in NEEDED]  # type: ignore[operator]
    return msgspec.defstruct("RequestEvent", [*NEEDED.items(), *optional])


def _request_headers() -> type:
    """The headers of a binary event as an object of texts."""
    kinds = {f"ce_{name}": kind for name, kind in (NEEDED | OPTIONAL).items()}
    if kinds.keys() != EVENT_HEADERS:
        raise SystemExit(f"the node reads {sorted(EVENT_HEADERS)}, this file speaks of {sorted(kinds)}")
    echoed = Annotated[str, msgspec.Meta(description="Any bytes up to 1,024; echoed in the result.")]
    others = {
        CONTENT_TYPE: DATA["datacontenttype"],
        **dict.fromkeys(CORRELATIONS, echoed),
        REPLY_TOPIC: Topic,
        REPLY_PARTITION: Annotated[str, msgspec.Meta(description="Of the reply topic: 4 bytes, big-endian, or digits.")],
    }
    return _headers("RequestHeaders", {f"ce_{name}": kind for name, kind in NEEDED.items()}, kinds | others)


def _result_headers() -> type:
    """The headers of the result of an event."""
    needed: dict[str, object] = {
        CONTENT_TYPE: Literal["application/json"],
        "ce_specversion": Literal["1.0"],
        "ce_type": Literal[RESULT_TYPE],
        "ce_source": Literal[RESULT_SOURCE],
        "ce_id": Annotated[str, msgspec.Meta(description="topic/partition/offset of the input record.")],
        "ce_correlationid": Annotated[str, msgspec.Meta(description="Of the request; its id where it had none.")],
    }
    echoed = Annotated[str, msgspec.Meta(description="Echoed where the request had it.")]
    return _headers("ResultHeaders", needed, dict.fromkeys(("traceparent", "tracestate", "kafka_correlationId", REPLAY_OF), echoed))


def _headers(title: str, needed: Mapping[str, object], optional: Mapping[str, object]) -> type:
    """A struct whose members are named as headers are."""
    kinds = {**needed, **{name: kind for name, kind in optional.items() if name not in needed}}
    fields = [
        (name.replace("-", "_"), kind) if name in needed else (name.replace("-", "_"), kind | msgspec.UnsetType, msgspec.UNSET)
        for name, kind in kinds.items()
    ]
    return msgspec.defstruct(title, fields, rename={CONTENT_TYPE.replace("-", "_"): CONTENT_TYPE})


MESSAGES: dict[str, tuple[type, str]] = {
    "kafka/request": (_request(), "A request on ml.pipeline.input in plain JSON: the record's value."),
    "kafka/request-event": (_event(), "A request as a structured CloudEvent: the value under content-type application/cloudevents+json."),
    "kafka/request-headers": (_request_headers(), "A request as a binary CloudEvent: the record's headers; its value is the parameters."),
    "kafka/result": (Result, "The one result of a request, on ml.pipeline.output or the reply topic: the record's value."),
    "kafka/result-headers": (_result_headers(), "Headers of the result of a CloudEvent; other results have the echoed ones alone."),
    "ModelCacheEvent": (ModelState, "The state of one tenant.model on the compacted topic ModelCacheEvent; lower revisions are ignored."),
    "ml.release": (PackageState, "The state of one package on the compacted topic ml.release; lower revisions are ignored."),
    "manifest": (Manifest, "millstream/manifest.json in the dist-info of a release's wheel."),
}


def schema(title: str, struct: type, description: str) -> str:
    """One schema as text, definitions inside."""
    (root,), components = msgspec.json.schema_components([struct], schema_hook=_raw, ref_template="#/$defs/{name}")
    document = {"$schema": DIALECT, "title": title, "description": description, **root, "$defs": components}
    return json.dumps(document, indent=2, sort_keys=False) + "\n"


def _raw(kind: type) -> dict[str, object]:
    """`msgspec.Raw` is any JSON value that this side leaves undecoded."""
    if kind in (msgspec.Raw, object):
        return {"description": "any JSON value"}
    raise NotImplementedError(kind)


def main() -> int:
    stale = []
    for name, (struct, description) in MESSAGES.items():
        path, text = HERE / f"{name}.schema.json", schema(name.rpartition("/")[2], struct, description)
        if "--check" not in sys.argv:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(path.name)
    if stale:
        print(f"differs from the code: {', '.join(stale)}; mend: python protocol/make.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
