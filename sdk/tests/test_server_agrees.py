"""The SDK and the server read the same words. Collected only where the server is installed too."""

from __future__ import annotations

import datetime
import uuid
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple

import millstream as ms
import msgspec
from millstream._declare import _NAME, pipeline_of
from millstream._failures import Fault
from millstream._manifest import PipelineSpec, describe_pipeline
from millstream._parameters import Parameters
from millstream._schema import parameters_schema
from millstream._signature import read_signature
from millstream_server.core.errors import CODES
from millstream_server.core.names import is_name
from millstream_server.core.release import PipelineSpec as ServersSpec
from millstream_server.core.schema_fit import Fit

WORKERS_CODES = {
    "bad_parameters": "invalid",
    "pipeline_not_in_release": "invalid",
    "pipeline_raised": "failed",
    "wrong_result": "failed",
    "wrong_length": "failed",
    "not_json": "failed",
    "result_too_large": "failed",
    "model_load_failed": "failed",
    "internal": "failed",
    "cancelled": "cancelled",
    "import_failed": "invalid",
    "bad_pipeline": "invalid",
}


@ms.inference(model="m", rows_independent=True, timeout_s=1.5)
def told(model: object, rows: list[int]) -> list[int]:
    """Doc."""
    return rows


def test_a_described_pipeline_is_what_the_server_reads() -> None:
    """Field by field the same names, order and types, and the same values after a way through JSON."""

    def fields(struct: Any) -> list[tuple[str, object, object]]:
        return [(field.name, field.default, field.default_factory) for field in msgspec.structs.fields(struct)]

    spec = describe_pipeline(pipeline_of(told))

    assert fields(PipelineSpec) == fields(ServersSpec)
    read = msgspec.json.decode(msgspec.json.encode(spec), type=ServersSpec, strict=True)
    assert msgspec.structs.asdict(read) == msgspec.structs.asdict(spec)


def test_every_code_that_a_worker_sends_is_one_of_the_server_s() -> None:
    """Codes are in the one list, with the status that the worker sends them with."""
    assert {code: CODES[code].kind for code in WORKERS_CODES} == WORKERS_CODES


def test_names_are_the_same_on_both_sides() -> None:
    """What the decorators take as a name, the server takes too, and no more."""
    for text in ("a", "A-b_9", "", "a.b", "a b", "x" * 64, "x" * 65, "ä", "a\n"):
        assert bool(_NAME.match(text)) == is_name(text)


TYPES: list[Any] = [
    *(int, float, str, bool, None, object, int | None, float | None, str | int, bool | str, bytes, uuid.UUID, datetime.timedelta),
    *(Literal["a", "b"], Literal["a"], Literal[1, "a", None], list[int], list[float], list[int | None], set[int], tuple[int, str]),
    *(dict[str, int], dict[str, float], tuple[int, ...], list[list[float]], list[dict[str, int]], Decimal),
    *(Annotated[int, msgspec.Meta(ge=1)], Annotated[int, msgspec.Meta(gt=0, le=5)], Annotated[float, msgspec.Meta(ge=0)]),
    *(
        Annotated[str, msgspec.Meta(max_length=1)],
        Annotated[str, msgspec.Meta(pattern="^a")],
        Annotated[list[int], msgspec.Meta(max_length=2)],
    ),
    msgspec.defstruct("Row", [("a", int)]),
    msgspec.defstruct("Row", [("a", int), ("b", str, "")]),
    msgspec.defstruct("Row", [("a", int)], forbid_unknown_fields=True),
    msgspec.defstruct("Row", [("a", float), ("b", str | None, None)]),
    msgspec.defstruct("Row", [("a", int), ("b", str)]),
    msgspec.defstruct("Row", [("a", int), ("b", str, "")], array_like=True),
]
VALUES = [
    *(b"0", b"1", b"-3", b"7", b"0.5", b'""', b'"a"', b'"ab"', b'"b"', b"true", b"null", b'"PT1S"', b'"YQ=="', b'"1.5"'),
    *(b"[]", b"[1]", b"[1,2,3]", b"[0.5]", b"[null]", b'[1,"a"]', b'["a"]', b"[[1]]", b"[[0.5],[]]", b"[{}]", b'[{"a":1}]'),
    *(b"{}", b'{"a":1}', b'{"a":0.5}', b'{"a":1,"b":"x"}', b'{"a":1,"b":null}', b'"123e4567-e89b-12d3-a456-426614174000"'),
]


def test_what_the_server_calls_compatible_this_sdk_decodes() -> None:
    """Of every two types: if the server says that callers of the first lose nothing, the second takes all that the first took.

    But for members that the first does not declare: nobody is counted on to send them.
    """
    made = [_made(annotation) for annotation in TYPES]

    fitting = [(old, new) for old in made for new in made if Fit(old.schema, new.schema).fits(old.schema, new.schema)]
    lost = [(old.annotation, new.annotation, value) for old, new in fitting for value in old.taken - new.taken if _declares(old, value)]

    assert lost == []
    assert len(fitting) > 2 * len(TYPES)


class Made(NamedTuple):
    """A parameter of some type: its schema, and the values that the SDK takes for it."""

    annotation: Any
    schema: dict[str, object]
    taken: set[bytes]


def _made(annotation: Any) -> Made:
    def pipeline(value: object) -> int: ...  # type: ignore[empty-body]

    pipeline.__annotations__ = {"value": annotation, "return": int}
    signature = read_signature(pipeline, kind="inference", has_model=False, rows_independent=False, local_names={})
    return Made(annotation, parameters_schema("pipeline", signature), _taken(Parameters("pipeline", signature)))


def _declares(made: Made, value: bytes) -> bool:
    fields = {field.name for field in msgspec.structs.fields(made.annotation)} if hasattr(made.annotation, "__struct_fields__") else None
    members = msgspec.json.decode(value)
    return fields is None or not isinstance(members, dict) or set(members) <= fields


def _taken(parameters: Parameters) -> set[bytes]:
    taken = set()
    for value in VALUES:
        try:
            parameters.arguments(b'{"value":' + value + b"}")
        except Fault:
            continue
        taken.add(value)
    return taken
