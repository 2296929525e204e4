"""The contract of the store about models: versions come with the end of a run, and the state stays small."""

from __future__ import annotations

import msgspec
import pytest
from millstream_server.core.log import MODELS
from millstream_server.core.model import ModelState, add_version, decode_model
from millstream_server.core.store import RunEnd, Store
from store_cases import answered, answers, running, stored_run, submit, succeed, trained


def test_a_run_that_succeeds_makes_a_version_and_its_model(store: Store) -> None:
    """The end of a run, its model's state and the version are there together."""
    run = running(store, "r1")

    state = succeed(store, run)

    assert store.model("acme", "anomaly") == state
    assert store.models() == [state]
    assert [(key, version.version, version.run) for key, version in store.model_versions()] == [("acme.anomaly", 1, "r1")]
    assert stored_run(store, "r1").model_version == 1


def test_a_model_is_published_before_the_answer_of_its_run(store: Store) -> None:
    """The outbox has the model's full state first, then the answer, so a caller who has it finds the model served or underway."""
    state = succeed(store, running(store, "r1"))

    rows = store.outbox_after(0, 10)

    assert [row.number for row in rows] == [1, 2]
    assert (rows[0].record.topic, rows[0].record.key) == (MODELS, b"acme.anomaly")
    assert decode_model(rows[0].record.value or b"") == state
    assert answered(store) == [("req-0", "r1 SUCCEEDED")]


def test_the_state_names_live_versions_and_the_store_keeps_all(store: Store) -> None:
    """However often a model is trained, its state has the champion and the one before; the lineage has every version."""
    for number in range(1, 6):
        succeed(store, running(store, f"r{number}", offset=number))

    state = store.model("acme", "anomaly")

    assert state is not None
    assert (state.revision, state.champion, state.previous, state.next_version) == (5, 5, 4, 6)
    assert [version.version for version in state.versions] == [4, 5]
    lineage = store.model_versions()
    assert [version.version for _, version in lineage] == [1, 2, 3, 4, 5]
    assert [version.run for _, version in lineage] == ["r1", "r2", "r3", "r4", "r5"]


def test_a_version_that_its_gate_held_back_is_in_the_lineage_and_nowhere_else(store: Store) -> None:
    """The model's state names the champion as before, the run says why, and the next version takes the next number."""
    succeed(store, running(store, "r1", offset=1))
    run = running(store, "r2", offset=2)
    (held,) = (v for v in trained(store.model("acme", "anomaly") or ModelState("", ""), run).versions if v.version == 2)
    held = msgspec.structs.replace(held, held_back="f1 is 0.4")
    state = add_version(store.model("acme", "anomaly") or ModelState("", ""), held)

    assert store.end_attempt("r2", 1, RunEnd("succeeded", model=state), answers, 3_000) == "SUCCEEDED"

    stored = store.model("acme", "anomaly")
    assert stored is not None
    assert (stored.revision, stored.champion, [v.version for v in stored.versions], stored.next_version) == (2, 1, [1], 3)
    assert [(version.version, version.held_back or "") for _, version in store.model_versions()] == [(1, ""), (2, "f1 is 0.4")]
    assert (stored_run(store, "r2").model_version, stored_run(store, "r2").held_back) == (2, "f1 is 0.4")
    assert decode_model(store.outbox_after(2, 10)[0].record.value or b"") == stored
    assert succeed(store, running(store, "r3", offset=3)).champion == 3


def test_versions_are_listed_of_one_tenant_or_one_model(store: Store) -> None:
    """The lineage is ordered by key and version, and can be asked for in part."""
    for number, (tenant, model) in enumerate([("beta", "price"), ("acme", "price"), ("acme", "anomaly"), ("acme", "price")]):
        succeed(store, running(store, f"r{number}", offset=number, tenant=tenant, model=model))

    def listed(tenant: str = "", model: str = "") -> list[tuple[str, int]]:
        return [(key, version.version) for key, version in store.model_versions(tenant=tenant, model=model)]

    assert listed() == [("acme.anomaly", 1), ("acme.price", 1), ("acme.price", 2), ("beta.price", 1)]
    assert listed(tenant="acme") == [("acme.anomaly", 1), ("acme.price", 1), ("acme.price", 2)]
    assert listed(model="price") == [("acme.price", 1), ("acme.price", 2), ("beta.price", 1)]
    assert listed(tenant="beta", model="anomaly") == []


def test_an_end_whose_model_has_moved_on_writes_nothing(store: Store) -> None:
    """Of two trainings that began from one revision the second one's end is refused whole, and may be made anew."""
    first, second = running(store, "r1", offset=1), running(store, "r2", offset=2)
    empty = ModelState("acme", "anomaly")
    assert store.end_attempt("r1", 1, RunEnd("succeeded", model=trained(empty, first)), answers, 3_000) == "SUCCEEDED"
    before = store.outbox_after(0, 10)

    refused = store.end_attempt("r2", 1, RunEnd("succeeded", metrics={"rows": 1.0}, model=trained(empty, second)), answers, 3_001)

    assert refused is None
    assert stored_run(store, "r2") == second
    assert store.outbox_after(0, 10) == before
    assert len(store.model_versions()) == 1
    assert succeed(store, second).champion == 2


def test_a_first_state_must_have_the_first_revision(store: Store) -> None:
    """A model that is not stored has revision 0, so only revision 1 follows it."""
    run = running(store, "r1")
    ahead = trained(ModelState("acme", "anomaly", revision=4), run)

    assert store.end_attempt("r1", 1, RunEnd("succeeded", model=ahead), answers, 3_000) is None
    assert store.models() == []


def test_only_success_makes_a_model(store: Store) -> None:
    """A model with an attempt that did not succeed is a defect of the caller, and nothing is written."""
    run = running(store, "r1")
    ended = RunEnd("failed", model=trained(ModelState("acme", "anomaly"), run))

    with pytest.raises(ValueError, match="failed"):
        store.end_attempt("r1", 1, ended, answers, 3_000)

    assert stored_run(store, "r1") == run


def test_an_unknown_model_is_none(store: Store) -> None:
    """A tenant without that model has no state of it, whatever others have."""
    succeed(store, running(store, "r1"))
    submit(store, "r2", 1, tenant="beta")

    assert store.model("beta", "anomaly") is None
    assert store.model("acme", "price") is None
