"""Manifests as the worker reads them, pipelines as `build` writes them, and the probe that compares the two.

`PipelineSpec` has the shape that the node knows (`protocol/`): name, kind, where the function is, its shape and JSON Schemas.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Sequence

import msgspec

from millstream._declare import Pipeline
from millstream._failures import DECODE_ERRORS
from millstream._gate import Bound
from millstream._release import ImportFailed, import_release
from millstream._schema import parameters_schema, returns_schema, step_names
from millstream.wire import WireError


class PipelineSpec(msgspec.Struct, frozen=True):
    """One pipeline as its declaration says; schemas are JSON Schema objects."""

    name: str
    kind: str
    module: str
    function: str
    model: str = ""
    shape: str = "row"
    rows_parameter: str = ""
    rows_independent: bool = False
    timeout_s: float | None = None
    parameters: dict[str, object] = {}
    returns: dict[str, object] = {}
    doc: str = ""
    steps: tuple[str, ...] = ()
    gate: tuple[Bound, ...] | msgspec.UnsetType = msgspec.UNSET


class Manifest(msgspec.Struct, frozen=True):
    """The part of a release's `manifest.json` that a worker needs; other fields are the node's."""

    package: str
    version: str
    build_id: str
    modules: tuple[str, ...]
    pipelines: tuple[PipelineSpec, ...] = ()


class ManifestError(Exception):
    """There is no manifest to work by; the message says where it was looked for."""


_COMPARED = ("kind", "module", "function", "model", "shape", "rows_parameter", "rows_independent", "gate")
_decode = msgspec.json.Decoder(Manifest).decode


def manifest_file(path: str) -> Manifest:
    """Read a manifest from a file.

    Raises:
        ManifestError: it is missing or no manifest.
    """
    try:
        with open(path, "rb") as file:
            return _decode(file.read())
    except OSError as error:
        raise ManifestError(f"the manifest {path} cannot be read: {error.strerror}") from None
    except DECODE_ERRORS as error:
        raise ManifestError(f"{path} is no manifest: {error}") from None


def installed_manifest(package: str) -> Manifest:
    """Read the manifest that an installed distribution carries in its dist-info.

    Looks through `sys.path` itself: `importlib.metadata` would double the time in which a worker starts.

    Raises:
        ManifestError: the distribution is not installed here, or was not made by `millstream build`.
    """
    wanted = _normal(package)
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue  # entries of sys.path need not exist, and may be zip files
        for name in names:
            if name.endswith(".dist-info") and _normal(name.partition("-")[0]) == wanted:
                return manifest_file(os.path.join(folder, name, "millstream", "manifest.json"))
    raise ManifestError(f"no distribution {package} is installed in {sys.prefix}")


def describe_pipeline(pipeline: Pipeline) -> PipelineSpec:
    """Write down a declaration.

    Raises:
        DeclarationError: a type has no JSON Schema.
    """
    signature = pipeline.signature
    function = pipeline.function
    return PipelineSpec(
        name=pipeline.name,
        kind=pipeline.kind,
        module=function.__module__,
        function=function.__qualname__,
        model=pipeline.model,
        shape=signature.shape,
        rows_parameter=signature.rows.name if signature.rows is not None else "",
        rows_independent=pipeline.rows_independent,
        timeout_s=pipeline.timeout_s,
        parameters=parameters_schema(pipeline.name, signature),
        returns=returns_schema(signature) if pipeline.kind == "inference" else {},
        doc=_doc(function.__doc__),
        steps=step_names(function),
        gate=pipeline.gate or msgspec.UNSET,
    )


def probe(manifest: Manifest) -> int:
    """Import the release and compare what it declares with its manifest; print one line of JSON.

    Returns:
        Exit code 0 where they agree, else 1.
    """
    real = claim_stdout()
    begun = time.perf_counter()
    error = None
    try:
        _, pipelines = import_release(manifest.modules)
        error = _difference(manifest, pipelines)
    except ImportFailed as failure:
        error = failure.error
    if error is None:
        answer: dict[str, object] = {"ok": True, "seconds": round(time.perf_counter() - begun, 6)}
    else:
        answer = {"ok": False, "error": error}
    sys.stdout.flush()
    os.write(real, msgspec.json.encode(answer) + b"\n")
    return 0 if error is None else 1


def claim_stdout() -> int:
    """Keep standard output for the one answer: what modules print while they are imported goes to standard error instead.

    Returns:
        A descriptor of the true standard output.
    """
    real = os.dup(1)
    os.dup2(2, 1)
    return real


def _difference(manifest: Manifest, pipelines: Sequence[Pipeline]) -> WireError | None:
    declared = {pipeline.name: pipeline for pipeline in pipelines}
    listed = {spec.name: spec for spec in manifest.pipelines}
    for name in sorted(listed.keys() ^ declared.keys()):
        where = "the manifest but not in the code" if name in listed else "the code but not in the manifest"
        return WireError("bad_pipeline", f"pipeline {name} is in {where} of {manifest.package}=={manifest.version}; build it again")
    for name, spec in listed.items():
        found = describe_pipeline(declared[name])
        for field in _COMPARED:
            if getattr(found, field) != getattr(spec, field):
                sentence = f"pipeline {name}: {field} is {getattr(found, field)!r} in the code, {getattr(spec, field)!r} in the manifest"
                return WireError("bad_pipeline", f"{sentence}; build it again")
    return None


def _doc(text: str | None) -> str:
    import inspect

    return inspect.cleandoc(text) if text else ""


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
