"""What `millstream environments run` asks for: the request as given, the model that it needs, and how its outcome is told."""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from millstream import wire

from millstream_server.core.errors import CODES, Invalid
from millstream_server.core.model import ModelVersion
from millstream_server.core.names import model_key
from millstream_server.core.release import Manifest, PipelineSpec
from millstream_server.core.request import BadRequest, Envelope, decode_request
from millstream_server.core.routing import near_misses
from millstream_server.node.logbook import entry
from millstream_server.node.models import verify
from millstream_server.node.trial import Limits, Model, Trial, Tried, attempt
from millstream_server.node.worker import Spawn

if TYPE_CHECKING:
    from millstream_server.app import Ports
    from millstream_server.environments.install import Sealed

ID = "by-hand"
"""The request's id where none is given."""


def request_in(file: str, pipeline: str, tenant: str) -> Envelope:
    """Read a request from a file (`-`: standard input); what the command line says too must agree with it.

    Raises:
        Invalid: bad_input, it cannot be read or contradicts the command line; bad_request, with the JSON path.
    """
    where = "standard input" if file == "-" else file
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        said = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except OSError as error:
        message = f"the request cannot be read: {error.strerror}"
        raise Invalid("bad_input", message, where=where, mend="name a file that is there") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        mend = 'write an object such as {"pipeline": "NAME", "params": {}}'
        raise Invalid("bad_input", f"the request is no JSON object: {error}", where=where, mend=mend) from None
    given = {"id": ID, "pipeline": pipeline, "tenant": tenant}
    for name, value in given.items():
        said.setdefault(name, msgspec.Raw(msgspec.json.encode(value or "default")))
    request = checked(msgspec.json.encode(said))
    for name, value in (("pipeline", pipeline), ("tenant", tenant)):
        if value and getattr(request, name) != value:
            message = f"the request says {name} {getattr(request, name)}, the command line {value}"
            raise Invalid("bad_input", message, where=where, mend=f"say the {name} in one of the two places")
    return request


def checked(data: bytes) -> Envelope:
    """A request as nodes read it.

    Raises:
        Invalid: bad_request, with the JSON path.
    """
    try:
        return decode_request(data)
    except BadRequest as error:
        mend = "correct the request; its fields: id, pipeline, tenant, params, timeout_s"
        raise Invalid("bad_request", error.message, where=error.path, mend=mend) from None


def pipeline_of(manifest: Manifest, name: str) -> PipelineSpec:
    """The release's pipeline of that name.

    Raises:
        Invalid: pipeline_not_in_release, naming those that are.
    """
    names = [spec.name for spec in manifest.pipelines]
    if name in names:
        return manifest.pipelines[names.index(name)]
    near = near_misses(name, names)
    mend = f"correct the name: {' or '.join(near)}" if near else f"name one of {', '.join(names) or 'none: it has no pipelines'}"
    message = f"{manifest.package}=={manifest.version} has no pipeline {name[:200]!r}; it has {', '.join(names) or 'none'}"
    raise Invalid("pipeline_not_in_release", message, mend=mend)


def version_of(ports: Ports, tenant: str, name: str, wanted: int) -> ModelVersion:
    """The model version to answer with: `wanted`, or the champion for 0.

    Raises:
        Invalid: no_model, unknown_model.
    """
    key = model_key(tenant, name)
    found = ports.store.model_versions(tenant=tenant, model=name) if ports.has_store else []
    versions = {version.version: version for _, version in found}
    state = ports.store.model(tenant, name) if found else None
    number = wanted or (state.champion if state is not None else 0)
    if number in versions:
        return versions[number]
    if not versions:
        mend = f"train one: millstream invoke TRAINING_PIPELINE --tenant {shlex.quote(tenant)}; who has one: millstream models list"
        raise Invalid("no_model", f"tenant {tenant} has no model {name}", mend=mend)
    there = ", ".join(map(str, sorted(versions)))
    raise Invalid("unknown_model", f"{key} has no version {number}; it has {there}", mend=f"millstream models show {key}")


class Call(msgspec.Struct, frozen=True):
    """One request by hand, all decided: which Python runs it, with which model version, and for how long at most."""

    python: Path
    spec: PipelineSpec
    request: Envelope
    version: ModelVersion | None
    timeout_s: float


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is printed. `model` is spelled tenant.model; `files` by name with their bytes, and `metrics`, are a training's."""

    status: str
    release: str
    build_id: str
    pipeline: str
    tenant: str
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    model: str = ""
    model_version: int = 0
    metrics: dict[str, float] = {}
    files: dict[str, int] = {}
    durations_s: dict[str, float] = {}


async def run(ports: Ports, sealed: Sealed, call: Call) -> tuple[Result, wire.WireError | None]:
    """Run a call in a worker of its own, its lines on standard error; what it leaves goes with a temporary folder.

    Raises:
        Failed: what `node.trial.attempt` raises; model_damaged.
    """
    key = model_key(call.request.tenant, call.spec.model) if call.spec.model else ""
    model = None
    if call.version is not None:
        model = Model(key, call.version.version, verify(ports.artifacts, ports.signer, key, call.version))
    lines = _Lines(sealed, call, key)
    with tempfile.TemporaryDirectory(prefix="millstream-by-hand-") as scratch:
        trains = call.spec.kind == "training"
        left = Path(scratch) / "model" if trains else None
        if left is not None:
            left.mkdir()
        trial = Trial(
            call.spec.name,
            wire.Row(call.request.id, call.request.tenant, 1, bytes(call.request.params)),
            model,
            left,
            (lambda params: _artifact(ports, call, params)) if trains else None,
        )
        spawn = Spawn(
            call.python,
            sealed.package,
            sealed.version,
            sealed.build_id,
            Path(scratch),
            _most_bytes(ports),
            ports.confinement,
            run=trains,
        )
        tried = await attempt(spawn, trial, _limits(ports, call), lines.hear)
        files = {path.name: path.stat().st_size for path in sorted(left.iterdir())} if left is not None else {}
    outcome = tried.outcome
    return _result(sealed, call, key, tried, lines.metrics, files), outcome.error if outcome.status != "ok" else None


def _limits(ports: Ports, call: Call) -> Limits:
    from millstream_server import app

    node = ports.settings.node
    return Limits(node.worker_ready_timeout_s, call.timeout_s, app.worker_memory_bytes(node.worker_memory_bytes))


def _most_bytes(ports: Ports) -> int:
    from millstream_server import app

    return app.max_result_bytes(ports.settings)


def _artifact(ports: Ports, call: Call, params: dict[str, str]) -> Path:
    """The verified files of a model version that a training begins from."""
    name, wanted = params.get("model") or call.spec.model, params.get("version", "champion")
    version = version_of(ports, call.request.tenant, name, int(wanted) if wanted.isdigit() else 0)
    return verify(ports.artifacts, ports.signer, model_key(call.request.tenant, name), version)


def _result(sealed: Sealed, call: Call, key: str, tried: Tried, metrics: dict[str, float], files: dict[str, int]) -> Result:
    outcome = tried.outcome
    trains = call.spec.kind == "training"
    return Result(
        outcome.status,
        f"{sealed.package}=={sealed.version}",
        sealed.build_id,
        call.spec.name,
        call.request.tenant,
        msgspec.Raw(outcome.body) if outcome.status == "ok" and not trains else msgspec.UNSET,
        key,
        call.version.version if call.version is not None else 0,
        metrics,
        files,
        tried.seconds,
    )


def failure(call: Call, label: str, error: wire.WireError) -> tuple[str, str, str, str]:
    """An outcome's error in the parts in which errors are printed: label, message, where, mend; nothing of it is in a log."""
    known = CODES.get(error.code)
    mend = known.mend if known is not None else ""
    if error.code == "bad_parameters":
        mend = f"correct the value at {error.path or 'the path'}; what the pipeline takes: millstream releases show {shlex.quote(label)}"
    elif "millstream logs" in mend or "millstream dlq" in mend or not mend:
        mend = "mend the pipeline; its lines and its traceback stand above"
    where = f"{call.spec.name}, {error.path}, {label}" if error.path else f"{call.spec.name}, {label}"
    return error.code.replace("_", "-"), error.message, where, mend


class _Lines:
    """Shows what a worker says, as the log of a node would, on standard error; keeps its metrics."""

    def __init__(self, sealed: Sealed, call: Call, key: str) -> None:
        self.metrics: dict[str, float] = {}
        self._sealed = sealed
        self._call = call
        self._key = key
        self._utc_offset_s = int(time.localtime().tm_gmtoff)

    def hear(self, message: wire.FromWorker | str) -> None:
        match message:
            case str():
                self._show("author", message, "info")
            case wire.Log():
                self._show("author", message.message, message.level)
            case wire.Step():
                took = f" in {message.seconds:.2f} s" if message.status != "running" else ""
                self._show("step", f"{message.name} {message.status}{took}", "info")
            case wire.Metric():
                self.metrics[message.name] = message.value
            case _:
                self._show("worker", f"sent {type(message).__name__}, which nobody expects here", "warning")

    def _show(self, event: str, message: str, level: str) -> None:
        from millstream_server.core.logbook import render

        call = self._call
        line = entry(
            event,
            message,
            level=level,
            requests=(call.request.id,),
            pipeline=call.spec.name,
            tenant=call.request.tenant,
            model=self._key,
            model_version=call.version.version if call.version is not None else 0,
        )
        line = msgspec.structs.replace(line, package=self._sealed.package, release=self._sealed.version)
        click.echo(render(line, utc_offset_s=self._utc_offset_s, most_bytes=0), err=True)


def refuse_other_kind(spec: PipelineSpec, wanted: int) -> None:
    """A version is named only where one is loaded.

    Raises:
        Invalid: bad_input
    """
    if wanted and (spec.kind == "training" or not spec.model):
        raise Invalid("bad_input", f"{spec.name} loads no model, so there is no version to name", mend="leave out --model")
