"""The contract of the mirror: what it is told is shown by MLflow, once, however often it is told; a moved alias is noticed."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest
from millstream_server.core.errors import Failed
from millstream_server.core.mirror import MirroredModel, Moved, mirrored_version
from mirror_cases import STORE, Place, shown_model, shown_run, shown_version, state_of, version

pytestmark = pytest.mark.xdist_group("mirror")

RUNS = "client.search_runs([client.get_experiment_by_name('{0}.churn').experiment_id])"


def alias(place: Place, tenant: str) -> object:
    """Which version MLflow's page shows as champion, None for none."""
    return place.client(f"client.get_registered_model('{tenant}.churn').aliases.get('champion')")


def moved_of(place: Place, tenant: str) -> list[Moved]:
    return [moved for moved in place.mirror.moved() if moved.key == f"{tenant}.churn"]


def three_versions(place: Place, tenant: str) -> None:
    for number in (1, 2, 3):
        place.mirror.write_model(shown_model(tenant, number, number, revision=number))


def test_a_run_is_shown_with_all_that_it_was(place: Place, tenant: str) -> None:
    """Experiment, times, status, parameters, metrics, steps, lineage: a plain client finds them where it looks for them."""
    place.mirror.write_run(shown_run(tenant))

    (run,) = place.client(f"[r.to_dictionary() for r in {RUNS.format(tenant)}]")

    assert (run["info"]["status"], run["info"]["start_time"], run["info"]["end_time"]) == ("FINISHED", 1_001_000, 1_009_000)
    assert run["info"]["run_name"] == f"RUN-{tenant}"
    assert run["data"]["params"] == {"source": "lake/2026", "depth": "3", "search.rate": "0.5", "columns": '["a","b"]'}
    assert run["data"]["metrics"] == {"auc": 0.875, "rows": 1000.0, "step_seconds/load": 1.5, "step_seconds/fit": 6.0}
    tags = run["data"]["tags"]
    assert {name: tags[f"millstream.{name}"] for name in ("tenant", "release", "python", "attempt", "node", "model_version", "store")} == {
        "tenant": tenant,
        "release": "1.2.0",
        "python": "3.11",
        "attempt": "2",
        "node": "node-2",
        "model_version": "1",
        "store": STORE,
    }
    assert tags["millstream.attempts"] == "1 lost on node-1: its lease lapsed; 2 succeeded on node-2"
    assert tags["millstream.steps"] == "load ok 1.500 s; fit ok 6.000 s"


@pytest.mark.parametrize(("state", "status"), [("FAILED", "FAILED"), ("DEAD", "FAILED"), ("CANCELLED", "KILLED")])
def test_a_run_that_came_to_nothing_says_why(place: Place, tenant: str, state: str, status: str) -> None:
    """Its state, code and message are there; it has no model version."""
    place.mirror.write_run(shown_run(tenant, state=state, error_code="raised", error_message="no rows", model_version=0))

    (run,) = place.client(f"[r.to_dictionary() for r in {RUNS.format(tenant)}]")

    assert run["info"]["status"] == status
    assert (run["data"]["tags"]["millstream.error_code"], run["data"]["tags"]["mlflow.note.content"]) == ("raised", "no rows")
    assert "millstream.model_version" not in run["data"]["tags"]


def test_what_is_told_again_is_there_once(place: Place, tenant: str) -> None:
    """Also by another process, which remembers nothing: one run, one point of each metric, one version."""

    def tell(mirror) -> None:  # type: ignore[no-untyped-def]
        mirror.write_run(shown_run(tenant))
        mirror.write_model(shown_model(tenant, 1, 1))

    tell(place.mirror)
    other = place.another()
    tell(other)
    other.close()

    (run,) = place.client(f"[r.info.run_id for r in {RUNS.format(tenant)}]")
    assert place.client(f"len(client.get_metric_history('{run}', 'auc'))") == 1
    assert place.client(f"len(client.search_model_versions(\"name = '{tenant}.churn'\"))") == 1


def test_a_run_that_was_cut_off_is_completed(place: Place, tenant: str) -> None:
    """A process died when it had made the run and a part of it: the same run gets the rest."""
    cut = msgspec.structs.replace(shown_run(tenant), params={"depth": "3"}, metrics={"auc": 0.875}, mark="")
    place.mirror.write_run(cut)

    place.mirror.write_run(shown_run(tenant))

    (run,) = place.client(f"[r.to_dictionary() for r in {RUNS.format(tenant)}]")
    assert len(run["data"]["params"]) == 4
    assert len(place.client(f"[h.value for h in client.get_metric_history('{run['info']['run_id']}', 'auc')]")) == 1


def test_whatever_an_author_calls_things_is_shown(place: Place, tenant: str) -> None:
    """Names that MLflow refuses are spelled otherwise, long texts are cut, numbers that are none are kept as they are."""
    params = {"a:b/c": 1, "../x": 2, "": 3, "/": 4, "smile ☺": "x" * 20_000} | {f"p{n}": n for n in range(500)}
    metrics = {"loss": math.nan, "best": math.inf, "per/class 1": 1.0, "../up": 2.0, "a;b": 3.0}

    place.mirror.write_run(shown_run(tenant, params=msgspec.json.encode(params), metrics=metrics))

    (run,) = place.client(f"[r.to_dictionary() for r in {RUNS.format(tenant)}]")
    assert len(run["data"]["params"]) == 200
    assert run["data"]["params"]["smile _"] == "x" * 4997 + "..."
    assert (run["data"]["params"]["a:b/c"], run["data"]["params"]["___x"]) == ("1", "2")
    assert math.isnan(run["data"]["metrics"]["loss"])
    assert run["data"]["metrics"].keys() >= {"best", "per/class 1", "___up", "a_b"}


def test_an_experiment_that_somebody_deleted_comes_back(place: Place, tenant: str) -> None:
    """Its name could not be used again otherwise, and all later runs of the model would be lost."""
    place.mirror.write_run(shown_run(tenant, "R1"))
    place.client(f"client.delete_experiment(client.get_experiment_by_name('{tenant}.churn').experiment_id)")

    place.mirror.write_run(shown_run(tenant, "R2"))

    assert "R2" in place.client(f"[r.info.run_name for r in {RUNS.format(tenant)}]")


def test_versions_are_registered_and_the_alias_follows_the_champion(place: Place, tenant: str) -> None:
    """Each with its run and lineage; champion, previous and revision are tags of the model."""
    place.mirror.write_run(shown_run(tenant, f"RUN-{tenant}-1"))

    three_versions(place, tenant)
    place.mirror.write_model(shown_model(tenant, 2, revision=4))

    versions = place.client(f"[(v.version, v.run_id, v.tags) for v in client.search_model_versions(\"name = '{tenant}.churn'\")]")
    tags = place.client(f"client.get_registered_model('{tenant}.churn').tags")
    assert sorted(tags_["millstream.version"] for _, _, tags_ in versions) == ["1", "2", "3"]
    first = next(one for one in versions if one[2]["millstream.version"] == "1")
    assert first[1] == place.client(f"{RUNS.format(tenant)}[0].info.run_id")
    assert (first[2]["millstream.release"], first[2]["millstream.key_id"]) == ("1.2.0", "0123456789abcdef")
    assert str(alias(place, tenant)) == "2"
    assert (tags["millstream.champion"], tags["millstream.revision"]) == ("2", "4")
    assert moved_of(place, tenant) == []


def test_pins_deletions_and_the_end_of_a_model_are_shown(place: Place, tenant: str) -> None:
    """Who deleted a version stands with it; a deleted model has no champion."""
    three_versions(place, tenant)
    pinned, deleted = version(tenant, 1), msgspec.structs.replace(version(tenant, 2), deleted_by="ada@desk", deleted_ms=5)
    state = state_of(tenant, 0, 4, pinned=(1,))
    shown = tuple(mirrored_version(one, state, f"{tenant}.churn", "millstream:/x") for one in (pinned, deleted))

    place.mirror.write_model(MirroredModel(f"{tenant}.churn", 0, {"millstream.promoted_by": ""}, shown))

    found = place.client(f"{{v.tags['millstream.version']: v.tags for v in client.search_model_versions(\"name = '{tenant}.churn'\")}}")
    assert (found["1"]["millstream.pinned"], found["2"]["millstream.deleted_by"]) == ("yes", "ada@desk")
    assert alias(place, tenant) is None
    assert moved_of(place, tenant) == []


def test_an_alias_moved_by_hand_is_noticed_and_our_own_is_not(place: Place, tenant: str) -> None:
    """With the version that it is at and who left a name; once it is champion, nothing was moved."""
    three_versions(place, tenant)
    assert moved_of(place, tenant) == []

    place.client(f"client.set_registered_model_tag('{tenant}.churn', 'promoted_by', 'ada')")
    place.client(f"client.set_registered_model_alias('{tenant}.churn', 'champion', '1')")

    (moved,) = moved_of(place, tenant)
    assert (moved.wrote, moved.version, moved.who) == (3, 1, "ada")
    assert place.mirror.write_model(shown_model(tenant, 3, revision=3)).overruled is None
    assert str(alias(place, tenant)) == "1", "what else is told of the model leaves it for being taken in"
    place.mirror.write_model(shown_model(tenant, 1, revision=4))
    assert moved_of(place, tenant) == []
    assert "promoted_by" not in place.client(f"client.get_registered_model('{tenant}.churn').tags")


def test_the_platforms_own_later_change_stands(place: Place, tenant: str) -> None:
    """Somebody moved the alias while the platform made another version champion: that is written, and what it overruled is told."""
    three_versions(place, tenant)
    place.client(f"client.set_registered_model_alias('{tenant}.churn', 'champion', '1')")

    overruled = place.mirror.write_model(shown_model(tenant, 2, revision=4)).overruled

    assert overruled is not None
    assert (overruled.wrote, overruled.version) == (3, 1)
    assert str(alias(place, tenant)) == "2"
    assert moved_of(place, tenant) == []


@pytest.mark.parametrize(
    ("hand", "at"),
    [
        ("client.delete_registered_model_alias('{0}.churn', 'champion')", 0),
        ("client.set_registered_model_alias('{0}.churn', 'champion', client.create_model_version('{0}.churn', 's3://x/y').version)", -1),
    ],
)
def test_an_alias_at_no_version_of_ours_is_put_back(place: Place, tenant: str, hand: str, at: int) -> None:
    """One that is gone, or at a version that somebody registered by themselves: told as such, and written again on demand."""
    three_versions(place, tenant)
    place.client(hand.format(tenant))

    (moved,) = moved_of(place, tenant)
    place.mirror.write_model(shown_model(tenant, 3, revision=3, insist=True))

    assert moved.version == at
    assert str(alias(place, tenant)) == "3"
    assert moved_of(place, tenant) == []


def test_numbers_there_need_not_be_ours(place: Place, tenant: str) -> None:
    """Somebody registered a version of the name first: ours are known by their tag."""
    place.client(f"(client.create_registered_model('{tenant}.churn'), client.create_model_version('{tenant}.churn', 's3://x/y'))[0].name")

    three_versions(place, tenant)
    place.client(f"client.set_registered_model_alias('{tenant}.churn', 'champion', '2')")

    (moved,) = moved_of(place, tenant)
    assert (moved.wrote, moved.version, moved.spoken) == (3, 1, "version 2 there")


def test_a_model_that_somebody_deleted_there_is_told(place: Place, tenant: str) -> None:
    """It comes back without the versions that it is not told again, and says that the champion is one of them."""
    three_versions(place, tenant)
    place.client(f"client.delete_registered_model('{tenant}.churn')")

    first = place.mirror.write_model(shown_model(tenant, 2, revision=4))
    again = place.mirror.write_model(shown_model(tenant, 2, 1, 2, 3, revision=4))

    assert (first.lacking, again.lacking) == (True, False)
    assert alias(place, tenant) is not None
    assert moved_of(place, tenant) == []


def test_a_model_of_another_store_is_not_touched(place: Place, tenant: str) -> None:
    """Two platforms mirror to one server and share a name: the second is refused for good, and tells which store has it."""
    three_versions(place, tenant)
    other = place.another("fedcba9876543210")

    with pytest.raises(Failed, match=STORE) as refused:
        other.write_model(shown_model(tenant, 1, 1))
    other.close()

    assert refused.value.code == "mirror_refused"
    assert str(alias(place, tenant)) == "3"


def test_files_are_copied_to_a_server_and_named_where_they_are_here(place: Place, tenant: str, tmp_path: Path) -> None:
    """A server's page offers them; the embedded one is on the same disk, and has their path."""
    (tmp_path / "model.bin").write_bytes(b"fitted")
    place.mirror.write_run(shown_run(tenant, f"RUN-{tenant}-1"))
    one = msgspec.structs.replace(shown_version(tenant, 1, state_of(tenant, 1)), folder=str(tmp_path) if place.mirror.copies_bytes else "")

    place.mirror.write_model(MirroredModel(f"{tenant}.churn", 1, {}, (one,)))

    (run,) = place.client(f"[r.info.run_id for r in {RUNS.format(tenant)}]")
    listed = place.client(f"[(f.path, f.file_size) for f in client.list_artifacts('{run}', 'model')]")
    source = place.client(f"client.get_model_version('{tenant}.churn', '1').source")
    if place.kind == "server":
        assert listed == [["model/model.bin", 6]]
        assert source.endswith(f"{run}/artifacts/model")
    else:
        assert (listed, source) == ([], f"millstream:/{tenant}.churn/RUN-{tenant}-1")


@pytest.mark.parametrize("place", ["embedded"], indirect=True)
def test_an_unused_helper_ends_and_another_comes_when_it_is_needed(place: Place, tenant: str) -> None:
    """A node that mirrors nothing has no such process."""
    mirror = place.another(idle_s=0.0)
    assert mirror.pid == 0

    mirror.write_run(shown_run(tenant, "R1"))
    first = mirror.pid
    mirror.rest()
    between = mirror.pid
    mirror.write_run(shown_run(tenant, "R2"))
    second = mirror.pid
    mirror.close()

    assert first
    assert between == 0
    assert second not in (0, first)
    assert len(place.client(f"[r.info.run_id for r in {RUNS.format(tenant)}]")) == 2
