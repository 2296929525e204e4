"""The SDK and the server read the same words. Collected only where the server is installed too."""

from __future__ import annotations

from typing import Any

import millstream as ms
import msgspec
from millstream._declare import _NAME, pipeline_of
from millstream._manifest import PipelineSpec, describe_pipeline
from millstream_server.core.errors import CODES
from millstream_server.core.names import is_name
from millstream_server.core.release import PipelineSpec as ServersSpec

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
