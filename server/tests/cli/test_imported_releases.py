"""What an imported model takes and answers, in the order and the words of its signature."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import msgspec
import pytest
from millstream_server.adapters.folder_index.folder import FolderIndex
from millstream_server.cli.imported_releases import answers, columns_of, in_order
from millstream_server.cli.schemas import takes
from millstream_server.core.release import Manifest, PipelineSpec, Release

ROW = {"type": "object", "properties": {"amount": {"type": "integer"}, "text": {"type": "string"}}, "required": ["text"]}
PARAMETERS = {
    "type": "object",
    "properties": {"rows": {"type": "array", "items": {"$ref": "#/$defs/Row"}}},
    "required": ["rows"],
    "$defs": {"Row": ROW},
}


def pipeline(outputs: str) -> PipelineSpec:
    return PipelineSpec("spam", "inference", "m", "f", doc=f"Answers.\nBy its signature it answers {outputs}\nMore.")


def test_fields_stand_in_the_order_of_the_columns() -> None:
    """A schema sorts them; columns that are others than its fields change nothing."""
    told = takes(in_order(PARAMETERS, ["text", "amount"]))

    assert told == ["rows: array of Row (required)", "  text: string (required)", "  amount: integer (optional)"]
    assert in_order(PARAMETERS, []) == in_order(PARAMETERS, ["text", "else"]) == PARAMETERS
    assert in_order({"properties": {}}, ["text"]) == {"properties": {}}


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ('[{"type": "double", "required": true}]', "double"),
        ('[{"type": "string", "name": "label"}, {"type": "long", "name": "n", "required": false}]', "label: string, n: long (optional)"),
        ('[{"type": "array", "items": {"type": "float"}}]', "array of float"),
        ('[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 3]}}]', "tensor float32 [-1, 3]"),
        ('[{"type": "double", "name": "a"}, {"type": "double", "name": "b"}, {"type": "dou', "a: double, b: double, ..."),
        ("[]", ""),
        ("what it likes", ""),
    ],
)
def test_outputs_are_told_in_words(outputs: str, words: str) -> None:
    """Of a description that was cut as far as it goes; what is no list of outputs is passed over."""
    assert answers(pipeline(outputs)) == words
    assert answers(PipelineSpec("spam", "inference", "m", "f", doc="Answers.")) == ""


def release(wheel: Path, module: str) -> Release:
    manifest = Manifest(1, "spam", "1.0.0", "1.0.0+abc", "3.11", "", "0.2.0", "1", (module,), "", "", ())
    return Release(manifest, wheel.name, hashlib.sha256(wheel.read_bytes()).hexdigest(), "CURRENT")


def test_the_columns_are_read_from_the_wheel_of_an_import(tmp_path: Path) -> None:
    """Not from one that somebody wrote, nor from another wheel than the one that was deployed; one that is gone says nothing."""
    module, wheel = "millstream_mlflow_abc", tmp_path / "spam-1.0.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(
            f"{module}/served.json", json.dumps({"inputs": [{"name": "text"}, {"name": "amount"}, {"name": 3}], "kind": "records"})
        )
    index = FolderIndex(tmp_path / "index")
    index.publish(wheel)
    ours = release(wheel, module)

    assert columns_of(index, ours) == ["text", "amount", "3"]
    assert columns_of(index, release(wheel, "spam")) == []
    assert columns_of(index, msgspec.structs.replace(ours, wheel_sha256="0" * 64)) == []
    assert columns_of(FolderIndex(tmp_path / "empty"), ours) == []
