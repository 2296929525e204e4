"""The contract of the store about versions that were made elsewhere: they come with a run that has ended, whole or not at all."""

from __future__ import annotations

import msgspec
import pytest
from millstream_server.core.log import MODELS
from millstream_server.core.model import ModelState, ModelVersion, SignedArtifact, decode_model
from millstream_server.core.models_by_hand import import_version
from millstream_server.core.run import Attempt, Run
from millstream_server.core.store import Store
from store_cases import running, stored_run, succeed

BY, NOW_MS = "ada@workbench", 9_000


def imported(run: str, number: int) -> tuple[Run, ModelVersion]:
    """A version that somebody imported, and the run that stands for its making."""
    attempt = Attempt(1, "by import", "1.0.0", "1.0.0+abc", NOW_MS, NOW_MS, "succeeded")
    ended = Run(
        run=run,
        tenant="acme",
        pipeline="anomaly",
        package="anomaly",
        model="anomaly",
        state="SUCCEEDED",
        idempotency_key=run,
        params=b"{}",
        attempt=1,
        max_attempts=1,
        created_ms=NOW_MS,
        started_ms=NOW_MS,
        ended_ms=NOW_MS,
        model_version=number,
        attempts=(attempt,),
    )
    signed = SignedArtifact(manifest="{}", signature="c2ln", key_id="00ff")
    return ended, ModelVersion(number, "anomaly", "1.0.0", "1.0.0+abc", run, 1, f"acme.anomaly/{run}-1", signed, NOW_MS)


def test_an_imported_version_is_champion_with_a_run_of_its_own(store: Store) -> None:
    """The run has ended, the lineage has the version, and one outbox row carries the whole state."""
    succeed(store, running(store))
    before, last = store.model("acme", "anomaly"), store.last_outbox_number()
    assert before is not None
    run, version = imported("i1", 2)

    assert store.save_import(run, import_version(before, version, BY, champion=True))

    after = store.model("acme", "anomaly")
    assert after is not None
    assert (after.champion, after.previous, after.promoted_by, after.promoted_ms) == (2, 1, BY, NOW_MS)
    assert msgspec.structs.replace(stored_run(store, "i1"), lease_owner="") == run
    (row,) = store.outbox_after(last, 10)
    assert (row.record.topic, decode_model(row.record.value or b"")) == (MODELS, after)


def test_one_that_is_not_promoted_is_in_the_lineage_alone(store: Store) -> None:
    """Who answers stays, the number is taken, and the version can be promoted later."""
    run, version = imported("i1", 1)

    assert store.save_import(run, import_version(ModelState("acme", "anomaly"), version, BY, champion=False))

    after = store.model("acme", "anomaly")
    assert after is not None
    assert (after.champion, after.versions, after.next_version) == (0, (), 2)
    assert [each.version for _, each in store.model_versions(tenant="acme", model="anomaly")] == [1]


def test_an_import_that_lost_the_race_leaves_nothing(store: Store) -> None:
    """A training came between: no run, no version, no outbox row."""
    state = ModelState("acme", "anomaly")
    succeed(store, running(store))
    last = store.last_outbox_number()
    run, version = imported("i1", 1)

    assert not store.save_import(run, import_version(state, version, BY, champion=True))

    assert (store.run("i1"), store.last_outbox_number()) == (None, last)


def test_a_run_that_has_not_ended_makes_no_import(store: Store) -> None:
    """That would be a version without a maker: a defect of the caller."""
    run, version = imported("i1", 1)
    state = import_version(ModelState("acme", "anomaly"), version, BY, champion=True)

    with pytest.raises(ValueError, match="cannot stand for the making"):
        store.save_import(msgspec.structs.replace(run, state="RUNNING"), state)
