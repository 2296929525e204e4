"""What the tests of the store speak of: runs of tenant acme, releases of package anomaly, and answers that name what they answer."""

from __future__ import annotations

from collections.abc import Sequence

from millstream_server.core.log import Outgoing
from millstream_server.core.model import ModelState, ModelVersion, SignedArtifact, add_version
from millstream_server.core.release import Manifest, PackageState, PipelineSpec, Release
from millstream_server.core.run import NewRun, Run, RunRequest
from millstream_server.core.store import RunEnd, Store, Submitted

ANSWERS = "answers"
"""The topic of the tests' answers."""

BUILDS = {"anomaly": ("1.0.0", "1.0.0+abc", "3.11", "10c4")}
"""What a node of these tests can run."""

LEASE_S = 10.0


def new_run(run: str, *, key: str = "", params: bytes = b'{"source":"a.csv"}', tenant: str = "acme", **other: object) -> NewRun:
    fields = {"pipeline": "train", "package": "anomaly", "model": "anomaly"} | other
    return NewRun(run=run, tenant=tenant, idempotency_key=key or run, params=params, **fields)  # type: ignore[arg-type]


def request(offset: int, *, request_id: str = "", partition: int = 0) -> RunRequest:
    return RunRequest(
        log_id="log-1",
        topic="ml.pipeline.input",
        partition=partition,
        offset=offset,
        append_ms=1_000 + offset,
        request_id=request_id or f"req-{offset}",
        reply_to="replies",
        key=b"acme",
        value=b'{"id":"req"}',
        headers=(("traceparent", b"00-\xff"), ("n", b"")),
    )


def answers(run: Run, request: RunRequest) -> Sequence[Outgoing]:
    """One record for a request, saying what became of the run."""
    return [Outgoing(ANSWERS, f"{run.run} {run.state} {run.error_code}".strip().encode(), key=request.request_id.encode())]


def submit(store: Store, run: str, offset: int = 0, now_ms: int = 1_000, **fields: object) -> Submitted:
    return store.submit_run(new_run(run, **fields), request(offset), answers, now_ms)  # type: ignore[arg-type]


def claim(store: Store, node: str = "n1", now_ms: int = 2_000, lease_s: float = LEASE_S) -> Run | None:
    return store.claim_run(node, BUILDS, lease_s, now_ms)


def running(store: Store, run: str = "r1", offset: int = 0, node: str = "n1", now_ms: int = 2_000, **fields: object) -> Run:
    """A run that was submitted and claimed at `now_ms`."""
    submit(store, run, offset, now_ms, **fields)
    claimed = claim(store, node, now_ms)
    assert claimed is not None
    assert claimed.run == run
    return claimed


def stored_run(store: Store, run: str) -> Run:
    found = store.run(run)
    assert found is not None
    return found


def trained(state: ModelState, run: Run) -> ModelState:
    """The model's state with a version that this attempt of a run made."""
    version = ModelVersion(
        version=state.next_version,
        package=run.package,
        release=run.release,
        build_id=run.build_id,
        run=run.run,
        attempt=run.attempt,
        location=f"{state.key}/{run.run}-{run.attempt}",
        artifact=SignedArtifact(manifest="{}", signature="c2ln", key_id="00ff"),
        created_ms=3_000,
        metrics={"rows": 288.0},
        params_json=run.params.decode(),
        size_bytes=12,
    )
    return add_version(state, version)


def succeed(store: Store, run: Run, now_ms: int = 3_000) -> ModelState:
    """End a run with the next version of its model, and return the model's new state."""
    state = trained(store.model(run.tenant, run.model) or ModelState(run.tenant, run.model), run)
    assert store.end_attempt(run.run, run.attempt, RunEnd("succeeded", model=state), answers, now_ms) == "SUCCEEDED"
    return state


def answered(store: Store) -> list[tuple[str, str]]:
    """Answers in the outbox as (request id, what it says), in the order of their numbers."""
    rows = (row.record for row in store.outbox_after(0, 10_000))
    return [((r.key or b"").decode(), (r.value or b"").decode()) for r in rows if r.topic == ANSWERS]


def package_state(revision: int, status: str = "CURRENT") -> PackageState:
    pipeline = PipelineSpec("detect", "inference", "anomaly", "detect", model="anomaly", parameters={"type": "object"})
    manifest = Manifest(1, "anomaly", "1.0.0", "1.0.0+abc", "3.11", ">=3.11", "0.1.0", "2026-11-21", ("anomaly",), "c", "l", (pipeline,))
    release = Release(manifest, "anomaly-1.0.0-py3-none-any.whl", "ab" * 32, status)  # type: ignore[arg-type]
    return PackageState("anomaly", revision, (release,))
