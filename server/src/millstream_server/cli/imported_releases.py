"""What the pipeline of an imported MLflow model takes and answers, as the model's signature says it, for `releases show`.

The JSON Schemas of such a release come from types that were made of the signature. They have lost two things that people look for: the
order of the columns, since a schema sorts the members of an object, and the outputs, which bind nobody.
"""

from __future__ import annotations

import re
import zipfile
from typing import TYPE_CHECKING

import msgspec

from millstream_server.core.schema_words import mapping

if TYPE_CHECKING:
    from millstream_server.core.index import ReleaseIndex
    from millstream_server.core.release import PipelineSpec, Release
    from millstream_server.core.schema_words import Schema

_ANSWERS = "By its signature it answers "
_ROWS = ("Row", "Inputs")
"""Names of the types that the columns, or the named tensors, are the fields of."""
_MOST_BYTES = 10_000_000


class _Served(msgspec.Struct):
    """What is asked of the file `served.json` in the wheel."""

    inputs: list[dict[str, object]] = []


def columns_of(index: ReleaseIndex, release: Release) -> list[str]:
    """Names of the signature's columns or tensors in their order, read from the wheel; empty where it has none or is not at hand."""
    from millstream_server.core.errors import MillstreamError
    from millstream_server.environments.mlflow_models.package import is_of_imports

    manifest = release.manifest
    if not manifest.modules or not is_of_imports(manifest):
        return []
    try:
        path, entry = index.fetch(manifest.package, manifest.version)
        if entry.sha256 != release.wheel_sha256:
            return []
        with zipfile.ZipFile(path) as wheel:
            member = wheel.getinfo(f"{manifest.modules[0]}/served.json")
            said = wheel.read(member) if member.file_size <= _MOST_BYTES else b"{}"
        served = msgspec.json.decode(said, type=_Served)
    except (MillstreamError, OSError, KeyError, zipfile.BadZipFile, msgspec.DecodeError):
        return []  # the order is a courtesy: the fields are told all the same, in the order of their names
    return [str(each["name"]) for each in served.inputs if "name" in each]


def in_order(parameters: Schema, columns: list[str]) -> Schema:
    """The schema with the fields of its rows in the order of the columns."""
    definitions = dict(mapping(parameters.get("$defs")))
    for name in _ROWS:
        fields = mapping(mapping(definitions.get(name)).get("properties"))
        if columns and set(fields) == set(columns):
            definitions[name] = {**mapping(definitions[name]), "properties": {each: fields[each] for each in columns}}
    return {**parameters, "$defs": definitions} if definitions else parameters


def answers(pipeline: PipelineSpec) -> str:
    """The outputs of the signature in words, out of the pipeline's description; empty where it has none."""
    line = next((each for each in pipeline.doc.splitlines() if each.startswith(_ANSWERS)), "")
    text, more = line.removeprefix(_ANSWERS), ""
    if text and not text.endswith("]"):  # a description ends somewhere: a thousand outputs are told as far as it goes
        text, more = f"{text.rpartition('}, {')[0]}}}]", ", ..."
    try:
        outputs = msgspec.json.decode(text, type=list[dict[str, object]]) if text else []
    except msgspec.DecodeError:
        return ""
    return ", ".join(map(_output, outputs)) + more if outputs else ""


def _output(said: dict[str, object]) -> str:
    """One output in MLflow's own words: `score: double`, `array of long`, `tensor float32 [-1, 3]`."""
    name = f"{said['name']}: " if said.get("name") is not None else ""
    return f"{name}{_kind(said)}" + (" (optional)" if said.get("required", True) is False else "")


def _kind(said: Schema) -> str:
    kind = str(said.get("type", "any"))
    if kind == "tensor":
        spec = mapping(said.get("tensor-spec"))
        return re.sub(r"\s+", " ", f"tensor {spec.get('dtype', '')} {spec.get('shape', '')}").rstrip()
    inner = {"array": "items", "map": "values"}.get(kind)
    return f"{kind} of {_kind(mapping(said[inner]))}" if inner is not None and inner in said else kind
