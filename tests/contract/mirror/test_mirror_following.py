"""A node's mirror over a real store and a real MLflow: what it follows, from where, which node does, and what it takes in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from millstream_server.adapters.folder_artifacts import FolderArtifacts
from millstream_server.adapters.keys import Ed25519Signer
from millstream_server.adapters.sql import SqlStore
from millstream_server.core.log import Outgoing
from millstream_server.core.model import ArtifactManifest, ModelState, ModelVersion, SignedArtifact, add_version, encode_artifact_manifest
from millstream_server.core.models_by_hand import delete_version, promote
from millstream_server.core.run import NewRun, Run, RunRequest
from millstream_server.core.store import KEPT_NOTICES, RunEnd
from millstream_server.node.logbook import Logbook
from millstream_server.node.mirror import LEASE_S, Mirror, Mirroring
from mirror_cases import BUILD, Place

from blackbox.command import log_lines

pytestmark = pytest.mark.xdist_group("mirror")


class House:
    """A store, its artifacts and key, and nodes' mirrors over them, by a clock that tests turn."""

    def __init__(self, folder: Path, place: Place, tenant: str) -> None:
        self.place, self.tenant, self.folder = place, tenant, folder
        self.store = SqlStore.open(f"sqlite:///{folder}/store.sqlite", create=True)
        self.artifacts = FolderArtifacts(folder / "artifacts")
        self.signer = Ed25519Signer.create(folder / "key")
        self.now_ms = 1_000_000
        self.troubles: list[str] = []
        self.offset = 0
        self.mirrors: list[Mirror] = []
        self.logbook = Logbook(folder / "logs", "n1", level="info", max_bytes=1 << 20, keep=1, terminal=False)

    def node(self, name: str) -> Mirror:
        mirroring = Mirroring(lambda store: self.place.another(store.store_id), lambda version: None)
        self.mirrors.append(
            Mirror(mirroring, self.store, self.artifacts, self.signer, name, lambda: self.now_ms, self.logbook, self.troubles.append)
        )
        return self.mirrors[-1]

    def train(self) -> ModelState:
        """A run that ends with the next version, as a node writes it."""
        self.offset += 1
        run_id, state = f"run-{self.offset}", self.store.model(self.tenant, "churn") or ModelState(self.tenant, "churn")
        request = RunRequest("log", "in", 0, self.offset, 1, run_id, "", None, b"{}")
        self.store.submit_run(
            NewRun(run_id, self.tenant, "learn", "churn", "churn", run_id, b'{"depth": 3}'), request, _answers, self.now_ms
        )
        run = self.store.claim_run("n1", {"churn": ("1.2.0", BUILD, "3.11", "ab")}, 60.0, self.now_ms)
        assert run is not None
        staged = self.artifacts.stage(state.key, run_id, 1)
        (staged / "model.bin").write_bytes(run_id.encode())
        location = self.artifacts.seal(staged)
        files = self.artifacts.hash_files(self.artifacts.fetch(location))
        number = state.next_version
        manifest = encode_artifact_manifest(
            ArtifactManifest(self.tenant, "churn", number, run_id, 1, "churn", "1.2.0", BUILD, self.now_ms, files)
        )
        signed = SignedArtifact(manifest.decode(), *self.signer.sign(manifest))
        version = ModelVersion(number, "churn", "1.2.0", BUILD, run_id, 1, location, signed, self.now_ms, size_bytes=5)
        after = add_version(state, version)
        assert self.store.end_attempt(run_id, 1, RunEnd("succeeded", model=after), _answers, self.now_ms) == "SUCCEEDED"
        return after

    def state(self) -> ModelState:
        found = self.store.model(self.tenant, "churn")
        assert found is not None
        return found

    def version(self, number: int) -> ModelVersion:
        return next(version for _, version in self.store.model_versions() if version.version == number)

    def there(self, expression: str) -> object:
        """What the plain client says of the model."""
        return self.place.client(expression.format(f"{self.tenant}.churn"))

    def lines(self) -> list[str]:
        return [str(line["message"]) for line in log_lines(self.folder)]


def _answers(_: Run, request: RunRequest) -> list[Outgoing]:
    return [Outgoing("answers", request.request_id.encode())]


def until_idle(mirror: Mirror, rounds: int = 20) -> None:
    """Rounds, as its thread makes them, until there is nothing to do."""
    for _ in range(rounds):
        mirror._looked_s = 0.0  # look at aliases each time
        if mirror._round() > 0.0:
            return
    raise AssertionError("it has always more to do")


@pytest.fixture
def house(tmp_path: Path, place: Place, tenant: str) -> Iterator[House]:
    made = House(tmp_path, place, tenant)
    yield made
    for mirror in made.mirrors:
        mirror.close()
    made.store.close()
    made.logbook.close()


VERSIONS = "sorted(v.tags['millstream.version'] for v in client.search_model_versions(\"name = '{0}'\"))"
ALIAS = "client.get_registered_model('{0}').aliases.get('champion')"
RUNS = "sorted(r.data.tags['millstream.run'] for r in client.search_runs([client.get_experiment_by_name('{0}').experiment_id]))"


@pytest.mark.parametrize("place", ["embedded"], indirect=True)
def test_one_node_writes_and_another_takes_over(house: House) -> None:
    """The whole state first, then what is new; the second node writes nothing while the first lives, and nothing twice afterwards."""
    house.train()
    house.train()
    first, second = house.node("n1"), house.node("n2")

    until_idle(first)
    until_idle(second)
    assert (first.status().held, second.status().held, second.status().written) == (True, False, 0)
    assert house.there(VERSIONS) == ["1", "2"]
    house.train()
    house.now_ms += round(LEASE_S * 1000) + 1
    until_idle(second)

    assert second.status().held
    assert house.there(VERSIONS) == ["1", "2", "3"]
    assert house.there(RUNS) == ["run-1", "run-2", "run-3"]
    assert house.store.count_notices(0) == 0
    # far behind: more was forgotten than is kept, so all is written anew, and is there once
    house.train()
    house.store.set_mirror_position(second._registry.target_id, house.store.last_outbox_number() - KEPT_NOTICES - 1)
    until_idle(second)
    assert house.there(VERSIONS) == ["1", "2", "3", "4"]
    assert house.troubles == []


def _to_deleted(house: House) -> None:
    state, deleted = delete_version(house.state(), house.version(1), "ada@desk", house.now_ms)
    assert house.store.save_model(state, deleted=deleted)
    house.there("client.set_registered_model_alias('{0}', 'champion', '1')")


def _to_damaged(house: House) -> None:
    folder = house.artifacts.fetch(house.version(1).location)
    (folder / "model.bin").chmod(0o644)
    (folder / "model.bin").write_bytes(b"other")
    house.there("client.set_registered_model_alias('{0}', 'champion', '1')")


def _away(house: House) -> None:
    house.there("client.delete_registered_model_alias('{0}', 'champion')")


@pytest.mark.parametrize("place", ["embedded"], indirect=True)
def test_only_what_models_promote_would_take_is_taken_in(house: House) -> None:
    """A whole version becomes champion once; a deleted or damaged one, or none, is put back and told; a later change of ours stands."""
    for _ in range(4):
        house.train()
    mirror = house.node("n1")
    until_idle(mirror)

    house.there("client.set_registered_model_alias('{0}', 'champion', '2')")
    until_idle(mirror)
    until_idle(mirror)
    assert (house.state().champion, house.state().promoted_by, house.state().revision) == (2, "mlflow", 5)
    refused = ((_to_damaged, "differs from its signed hash"), (_to_deleted, "was deleted by ada@desk"), (_away, "no version"))
    for hand, words in refused:
        hand(house)
        until_idle(mirror)
        assert str(house.there(ALIAS)) == "2"
        assert any(words in line and "is put back to v2" in line for line in house.lines())
    house.there("client.set_registered_model_alias('{0}', 'champion', '4')")
    assert house.store.save_model(promote(house.state(), house.version(3), "ada@desk", house.now_ms))
    until_idle(mirror)

    assert house.state().champion == 3
    assert str(house.there(ALIAS)) == "3"
    assert any("the platform's own later change stands" in line for line in house.lines())
