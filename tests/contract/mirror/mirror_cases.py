"""Runs and models as the store holds them, for tests of what a mirror shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from millstream_server.adapters.mlflow import MlflowMirror
from millstream_server.core.mirror import MirroredModel, MirroredRun, MirroredVersion, mirrored_model, mirrored_run, mirrored_version
from millstream_server.core.model import ModelState, ModelVersion, SignedArtifact
from millstream_server.core.names import model_key
from millstream_server.core.run import Attempt, Run, RunStep

from blackbox.mlflow import PlainClient

STORE = "0123456789abcdef"
BUILD = "1.2.0+0123456789ab"


@dataclass
class Place:
    """One MLflow: its kind, where it is, the mirror under test, a plain client."""

    kind: str
    uri: str
    folder: Path
    mirror: MlflowMirror
    client: PlainClient

    def another(self, store: str = STORE, **arguments: object) -> MlflowMirror:
        """A further mirror of the same place, as another process would open it."""
        uri = self.uri if self.kind == "server" else ""
        return MlflowMirror(uri, self.folder, store, copies_bytes=1 << 20, **arguments)  # type: ignore[arg-type]


def ended(tenant: str, run: str = "", **changes: object) -> Run:
    """A run that ended well."""
    values: dict[str, object] = {
        "run": run or f"RUN-{tenant}",
        "tenant": tenant,
        "pipeline": "learn",
        "package": "churn",
        "model": "churn",
        "state": "SUCCEEDED",
        "idempotency_key": "k",
        "params": b'{"source": "lake/2026", "depth": 3, "search": {"rate": 0.5}, "columns": ["a", "b"]}',
        "attempt": 2,
        "max_attempts": 3,
        "created_ms": 1_000_000,
        "started_ms": 1_001_000,
        "ended_ms": 1_009_000,
        "release": "1.2.0",
        "build_id": BUILD,
        "python": "3.11",
        "lock_sha256": "ab" * 32,
        "model_version": 1,
        "metrics": {"auc": 0.875, "rows": 1000.0},
        "steps": (RunStep("load", "ok", 1.5), RunStep("fit", "ok", 6.0)),
        "attempts": (
            Attempt(1, "node-1", "1.2.0", BUILD, 1_001_000, 1_002_000, "lost", "its lease lapsed"),
            Attempt(2, "node-2", "1.2.0", BUILD, 1_002_000, 1_009_000, "succeeded"),
        ),
    }
    return Run(**(values | changes))  # type: ignore[arg-type]


def shown_run(tenant: str, run: str = "", **changes: object) -> MirroredRun:
    return mirrored_run(ended(tenant, run, **changes), STORE)


def version(tenant: str, number: int) -> ModelVersion:
    artifact = SignedArtifact("{}", "c2lnbmF0dXJl", "0123456789abcdef")
    place = f"{tenant}.churn/RUN-{tenant}-{number}"
    return ModelVersion(number, "churn", "1.2.0", BUILD, f"RUN-{tenant}-{number}", 1, place, artifact, 1_000_000 + number, size_bytes=6)


def shown_version(tenant: str, number: int, state: ModelState, folder: str = "") -> MirroredVersion:
    one = version(tenant, number)
    return mirrored_version(one, state, model_key(tenant, "churn"), f"millstream:/{one.location}", folder)


def state_of(tenant: str, champion: int, revision: int = 1, **changes: object) -> ModelState:
    return ModelState(tenant, "churn", revision, champion, **changes)  # type: ignore[arg-type]


def shown_model(tenant: str, champion: int, *versions: int, revision: int = 1, insist: bool = False) -> MirroredModel:
    """A model whose champion is `champion`, with those of its versions that are new."""
    state = state_of(tenant, champion, revision)
    whole = mirrored_model(state, [shown_version(tenant, number, state) for number in versions], STORE)
    return MirroredModel(whole.key, whole.champion, whole.tags, whole.versions, insist)
