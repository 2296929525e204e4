"""The port of the registry's mirror, and the rules of what it shows: runs and models as data scientists and their tools look at them.

The store is the truth and the mirror its face: what is written here is made from the store's present state, so it may be written
again at any time. One thing comes back, an alias `champion` that somebody moved there (`Moved`). Words are MLflow's where they are
meant for its pages, and `TAG_*` where the platform reads them again.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from millstream_server.core.model import ModelState, ModelVersion
from millstream_server.core.names import model_key
from millstream_server.core.run import Run

ALIAS = "champion"
BY_HAND = "mlflow"
"""Who moved an alias, where nobody says: MLflow keeps no name beside an alias."""

TAG_STORE = "millstream.store"
TAG_RUN = "millstream.run"
TAG_MIRRORED = "millstream.mirrored"
"""Of a run: the attempt and state that it shows, written last; without it a run was cut off in the middle."""
TAG_VERSION = "millstream.version"
TAG_CHAMPION = "millstream.champion"
TAG_ALIAS = "millstream.alias"
"""Of a model: the numbers there that the alias may have by us, the one that is being written included; any other is somebody's."""
TAG_WHO = "promoted_by"
"""Of a model: who moves the alias, set by them if they like; taken off when it has been read."""

MOST_PARAMETERS = 200
LONGEST_VALUE = 5_000
"""MLflow takes 6,000 characters; a tag that ends in `...` was longer."""
_UNTOLD = re.compile(r"[^\w .:/-]")
_STATES: dict[str, Literal["FINISHED", "FAILED", "KILLED"]] = {
    "SUCCEEDED": "FINISHED",
    "FAILED": "FAILED",
    "DEAD": "FAILED",
    "CANCELLED": "KILLED",
}


class MirroredRun(msgspec.Struct, frozen=True, tag="run"):
    """An ended run, in the words of MLflow; times are Unix milliseconds."""

    run: str
    experiment: str
    name: str
    status: str
    started_ms: int
    ended_ms: int
    mark: str
    """What its tag `TAG_MIRRORED` says when all of it is written."""
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]


class MirroredVersion(msgspec.Struct, frozen=True):
    """A model version. `folder` holds its files on this machine, where they are to be copied there; empty: they are only named."""

    version: int
    run: str
    experiment: str
    source: str
    tags: dict[str, str]
    folder: str = ""


class MirroredModel(msgspec.Struct, frozen=True, tag="model"):
    """A model with those of its versions that are new or changed. `champion` 0: none; `insist`: an alias moved by hand is put back."""

    key: str
    champion: int
    tags: dict[str, str]
    versions: tuple[MirroredVersion, ...] = ()
    insist: bool = False


class Moved(msgspec.Struct, frozen=True):
    """An alias that somebody else moved: from the version that we wrote to another one (0: it is gone, -1: none of ours)."""

    key: str
    wrote: int
    version: int
    spoken: str
    who: str = ""


class Written(msgspec.Struct, frozen=True):
    """What writing a model met: a person's alias that it overruled; `lacking`, the champion's version is not there (it comes with a
    later part, or somebody deleted it there)."""

    overruled: Moved | None = None
    lacking: bool = False


class RegistryMirror(Protocol):
    """Calls come from one thread; each has an end, and may raise Unavailable (mirror_unavailable) or Failed (mirror_refused).

    Every call may be repeated, and then changes nothing.
    """

    target: str
    """Where it is, for people: no password."""

    target_id: str
    """Names it among all mirrors that a store ever had."""

    copies_bytes: int
    """Model files of up to so many bytes are copied there; 0: they are named by their place."""

    local: bool
    """Whether it is on this machine: then model files are named by their path."""

    def write_run(self, run: MirroredRun) -> None: ...

    def write_model(self, model: MirroredModel) -> Written:
        """Write a model. An alias that was moved by hand stays where the champion is what was written last, and is to be taken in;
        else the platform's own change came later, and wins, and what it overruled is told."""

    def moved(self) -> list[Moved]:
        """Aliases of this store's models that somebody else moved since."""

    def rest(self) -> None:
        """Give back what is not used; called now and then."""

    def close(self) -> None:
        """End at once, also a call that is under way; from any thread."""

    @property
    def pid(self) -> int:
        """Of the process that works for it now; 0 for none."""


def experiment_of(run: Run) -> str:
    """One for each `tenant.model`, so that its runs can be compared; a pipeline that makes no model has its own."""
    return model_key(run.tenant, run.model or run.pipeline)


def mirrored_run(run: Run, store_id: str) -> MirroredRun:
    """What is shown of an ended run."""
    last = run.attempts[-1] if run.attempts else None
    tags = {
        TAG_STORE: store_id,
        TAG_RUN: run.run,
        "millstream.tenant": run.tenant,
        "millstream.pipeline": run.pipeline,
        "millstream.package": run.package,
        "millstream.release": run.release,
        "millstream.build_id": run.build_id,
        "millstream.python": run.python,
        "millstream.lock_sha256": run.lock_sha256,
        "millstream.state": run.state,
        "millstream.attempt": str(run.attempt),
        "millstream.attempts": "; ".join(f"{a.attempt} {a.end} on {a.node}{': ' + a.detail if a.detail else ''}" for a in run.attempts),
        "millstream.node": last.node if last else "",
        "millstream.steps": "; ".join(f"{step.name} {step.status} {step.seconds:.3f} s" for step in run.steps),
        "millstream.model": model_key(run.tenant, run.model) if run.model else "",
        "millstream.model_version": str(run.model_version) if run.model_version else "",
        "millstream.held_back": run.held_back,
        "millstream.error_code": run.error_code,
        "mlflow.source.name": f"{run.package}=={run.release}:{run.pipeline}" if run.release else run.pipeline,
        "mlflow.source.type": "JOB",
        "mlflow.note.content": run.error_message,
    }
    steps = {f"step_seconds/{step.name}": step.seconds for step in run.steps}
    return MirroredRun(
        run.run,
        experiment_of(run),
        run.run,
        _STATES.get(run.state, "FAILED"),
        run.started_ms or run.created_ms,
        run.ended_ms,
        f"{run.attempt} {run.state}",
        flat_parameters(run.params),
        {_told(name): value for name, value in (steps | run.metrics).items()},
        _filled(tags),
    )


def mirrored_version(version: ModelVersion, state: ModelState, experiment: str, source: str, folder: str = "") -> MirroredVersion:
    """What is shown of a version, as it stands now: pinned or deleted, and by whom."""
    tags = {
        TAG_VERSION: str(version.version),
        "millstream.package": version.package,
        "millstream.release": version.release,
        "millstream.build_id": version.build_id,
        "millstream.tenant": state.tenant,
        TAG_RUN: version.run,
        "millstream.attempt": str(version.attempt),
        "millstream.location": version.location,
        "millstream.size_bytes": str(version.size_bytes),
        "millstream.manifest_sha256": hashlib.sha256(version.artifact.manifest.encode()).hexdigest(),
        "millstream.signature_sha256": hashlib.sha256(version.artifact.signature.encode()).hexdigest(),
        "millstream.key_id": version.artifact.key_id,
        "millstream.pinned": "yes" if version.version in state.pins else "no",
        "millstream.held_back": "" if version.held_back is msgspec.UNSET else str(version.held_back),
        "millstream.deleted_by": str(version.deleted_by) if version.is_deleted else "",
        "millstream.deleted_ms": str(version.deleted_ms) if version.is_deleted else "",
    }
    return MirroredVersion(version.version, version.run, experiment, source, _filled(tags), folder)


def mirrored_model(state: ModelState, versions: Sequence[MirroredVersion], store_id: str) -> MirroredModel:
    """What is shown of a model."""
    tags = {
        TAG_STORE: store_id,
        "millstream.tenant": state.tenant,
        "millstream.model": state.model,
        "millstream.revision": str(state.revision),
        "millstream.previous": str(state.previous),
        "millstream.promoted_by": "" if state.promoted_by is msgspec.UNSET else str(state.promoted_by),
        "millstream.promoted_ms": "" if state.promoted_ms is msgspec.UNSET else str(state.promoted_ms),
    }
    return MirroredModel(state.key, state.champion, tags, tuple(versions))  # also what says nothing now: it may have said something


def flat_parameters(params: bytes) -> dict[str, str]:
    """A run's JSON parameters as names and texts: an object's fields one by one, `a.b` for those of objects in it, all else as JSON."""
    try:
        decoded = msgspec.json.decode(params)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return {"params": _cut(params.decode("utf-8", "replace"))}
    if not isinstance(decoded, dict):
        return {"params": _spoken(decoded)}
    flat: dict[str, str] = {}
    _flatten("", decoded, flat)
    return flat


def _flatten(prefix: str, value: dict[str, object], flat: dict[str, str]) -> None:
    for name, one in value.items():
        if len(flat) >= MOST_PARAMETERS:
            return
        full = _told(f"{prefix}{name}")
        if isinstance(one, dict) and one and prefix.count(".") < 3:
            _flatten(f"{full}.", one, flat)
        else:
            flat.setdefault(full, _spoken(one))


def _spoken(value: object) -> str:
    return _cut(value if isinstance(value, str) else msgspec.json.encode(value).decode())


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."


def _told(name: str) -> str:
    """A name as MLflow takes it: what it refuses becomes an underscore, and what it would take for a path has no parts."""
    told = _UNTOLD.sub("_", name)[:200] or "_"
    return told if posixpath.normpath(told) == told and not told.startswith((".", "/")) else re.sub(r"[./]", "_", told)


def _filled(tags: dict[str, str]) -> dict[str, str]:
    """Those that say something, cut to length."""
    return {name: _cut(value) for name, value in tags.items() if value}
