"""A running platform and its mirror: what MLflow's own client sees of trainings, aliases moved there, and an MLflow that is away."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_platform import Running, wheel

from blackbox.mlflow import MlflowServer, PlainClient
from blackbox.processes import process, tree
from blackbox.stream import wait_for

pytestmark = pytest.mark.xdist_group("mirror-e2e")

SEEN_S = 90.0
"""For what goes through MLflow's client on a machine that does other things too."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A real MLflow server on a port of its own."""
    folder = tmp_path_factory.mktemp("mlflow-server")
    with MlflowServer(f"sqlite:///{folder}/mlflow.db", folder) as running:
        yield running


@pytest.fixture(scope="module")
def running(server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A platform that mirrors to it; requests to a server that hangs are given up soon, so that tests are."""
    settings = {"MILLSTREAM_MLFLOW_URI": server.url, "MLFLOW_HTTP_REQUEST_TIMEOUT": "3"}
    platform = Running.start(tmp_path_factory.mktemp("mirror") / "data", settings)
    assert platform.deploy(wheel("1.0.0")).code == 0
    yield platform
    assert platform.close() == 0


@pytest.fixture(scope="module")
def client(server: MlflowServer) -> Iterator[PlainClient]:
    plain = PlainClient(server.url)
    yield plain
    plain.close()


def mirror(running: Running) -> dict[str, object]:
    """What the node says of its mirror."""
    (node,) = json.loads(running.say("status", "--json").out)["nodes"]
    said: dict[str, object] = node["mirror"]
    return said


def caught_up(running: Running, versions: int, client: PlainClient, tenant: str) -> bool:
    """The alias is written last: whoever moves it before that is overruled, as by any later change of the platform."""
    query = f"client.search_model_versions(\"name = '{tenant}.scale'\")"
    if mirror(running)["waiting"] or client(f"len({query})") != versions:
        return False
    return "champion" in str(client(f"client.get_registered_model('{tenant}.scale').aliases"))


def champion(running: Running, tenant: str) -> dict[str, object]:
    shown: dict[str, object] = json.loads(running.say("models", "show", f"{tenant}.scale", "--json").out)
    return shown


def weighed(running: Running, tenant: str) -> object:
    return json.loads(running.say("invoke", "weigh", "--tenant", tenant, "--params", '{"x": 2.0}').out)


def lines(running: Running, words: str) -> list[str]:
    """Lines of the node's log that hold these words."""
    text = (running.platform.data_dir / "logs" / "node.jsonl").read_text()
    return [line for line in text.splitlines() if words in line]


def test_trainings_are_seen_and_an_alias_moved_there_answers(running: Running, client: PlainClient) -> None:
    """Runs, versions and champion come by themselves; within ten seconds the alias that ada moves decides who answers, and says so."""
    running.train("acme", 3.0)
    running.train("acme", 4.0)
    wait_for(lambda: caught_up(running, 2, client, "acme"), SEEN_S, "both versions are seen")
    runs = client("[r.data.params for r in client.search_runs([client.get_experiment_by_name('acme.scale').experiment_id])]")
    assert {run["factor"] for run in runs} == {"3.0", "4.0"}
    aliases = "{name: str(version) for name, version in client.get_registered_model('acme.scale').aliases.items()}"
    wait_for(lambda: client(aliases).get("champion") == "2", SEEN_S, "the champion is named there")

    client("client.set_registered_model_tag('acme.scale', 'promoted_by', 'ada')")
    client("client.set_registered_model_alias('acme.scale', 'champion', '1')")
    begun = time.monotonic()
    wait_for(lambda: champion(running, "acme")["champion"] == 1, SEEN_S, "the alias is taken in")
    took_s = time.monotonic() - begun
    wait_for(lambda: weighed(running, "acme") == 6.0, 10.0, "v1 answers")

    print(f"an alias moved in MLflow was a new revision after {took_s:.1f} s")
    shown = champion(running, "acme")
    assert (shown["revision"], shown["previous"], shown["promoted_by"]) == (3, 2, "ada (mlflow)")
    wait_for(lambda: mirror(running)["waiting"] == 0, SEEN_S, "MLflow has the revision")
    time.sleep(6.0)  # two more looks at aliases: what we wrote ourselves is not taken for somebody's
    assert champion(running, "acme")["revision"] == 3


def test_an_alias_that_cannot_be_followed_is_put_back(running: Running, client: PlainClient) -> None:
    """It was moved to a version that somebody registered by themselves: told once, and the champion stays."""
    running.train("globex", 3.0)
    wait_for(lambda: caught_up(running, 1, client, "globex"), SEEN_S, "it is seen")

    client("client.set_registered_model_alias('globex.scale', 'champion', client.create_model_version('globex.scale', 's3://x/y').version)")

    wait_for(lambda: bool(lines(running, "is put back to v1")), SEEN_S, "the node refuses it")
    wait_for(lambda: str(client("client.get_registered_model('globex.scale').aliases['champion']")) == "1", SEEN_S, "it is put back")
    assert champion(running, "globex")["revision"] == 1
    assert len(lines(running, "is put back to v1")) == 1


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_an_mlflow_that_is_away_holds_nobody_up(running: Running, server: MlflowServer, client: PlainClient, fault: str) -> None:
    """Trainings and answers go on; the node says once what is wrong and how much waits, and catches up in order."""
    tenant, troubles = f"away-{fault}", len(lines(running, '"trouble"'))
    running.train(tenant, 3.0)
    wait_for(lambda: caught_up(running, 1, client, tenant), SEEN_S, "the first version is seen")

    getattr(server, fault)()
    try:
        for factor in (4.0, 5.0, 6.0):
            running.train(tenant, factor)
            wait_for(lambda wanted=2 * factor: weighed(running, tenant) == wanted, 10.0, "it answers")  # type: ignore[misc]
        wait_for(lambda: bool(mirror(running)["trouble"]), SEEN_S, "the node says so")
        # The first training may wait too: the node had written it, and had not said so before its MLflow went away.
        wait_for(lambda: mirror(running)["waiting"] in (6, 8), SEEN_S, "three runs and three changes of the model wait")
        doctor = running.say("doctor")
        time.sleep(5.0)  # further tries, which say nothing new
    finally:
        server.start() if fault == "kill" else server.thaw()
    wait_for(lambda: caught_up(running, 4, client, tenant), SEEN_S, "it has caught up")

    versions = client(f"[v.tags['millstream.version'] for v in client.search_model_versions(\"name = '{tenant}.scale'\")]")
    assert sorted(versions) == ["1", "2", "3", "4"]
    assert str(client(f"client.get_registered_model('{tenant}.scale').aliases['champion']")) == "4"
    assert "mirror-unavailable" in doctor.out + doctor.err
    wait_for(lambda: mirror(running)["trouble"] == "", SEEN_S, "the trouble is over")
    wait_for(lambda: len(lines(running, '"trouble"')) == troubles + 2, 10.0, "it was told once as it came, and once as it went")


def test_a_node_that_is_killed_in_the_middle_repeats_nothing(running: Running, client: PlainClient) -> None:
    """Its helper ends with it; the next one goes on where it was, and what was written is there once."""
    assert running.node is not None
    for factor in (3.0, 4.0, 5.0):
        running.train("killed", factor)
    wait_for(lambda: mirror(running)["helper_pid"] != 0, SEEN_S, "it is being written")
    helper = int(str(mirror(running)["helper_pid"]))

    running.node.kill()
    wait_for(lambda: process(helper) is None, SEEN_S, "the helper ends with its node")
    running.up()
    wait_for(lambda: caught_up(running, 3, client, "killed"), SEEN_S, "all is written")

    runs = client("[r.data.params['factor'] for r in client.search_runs([client.get_experiment_by_name('killed.scale').experiment_id])]")
    assert sorted(runs) == ["3.0", "4.0", "5.0"]


def test_the_embedded_one_needs_no_server(tmp_path: Path) -> None:
    """Where MLflow is installed it is there by itself: a helper when something is to be written, nothing of it in the node, plain files."""
    running = Running.start(tmp_path / "data", {"MILLSTREAM_MLFLOW_URI": "auto"})
    assert running.node is not None
    assert running.deploy(wheel("1.0.0")).code == 0
    before = [one.pid for one in tree(running.node.pid) if "mlflow" in Path(f"/proc/{one.pid}/cmdline").read_text()]
    running.train("acme", 3.0)

    uri = f"sqlite:///{tmp_path}/data/mlflow/mlflow.db"
    wait_for(lambda: int(str(mirror(running)["written"])) >= 2 and mirror(running)["waiting"] == 0, SEEN_S, "it is written")
    helper, maps = int(str(mirror(running)["helper_pid"])), Path(f"/proc/{running.node.pid}/maps").read_text()
    client = PlainClient(uri)
    seen = client("[(m.name, m.aliases) for m in client.search_registered_models()]")
    client.close()

    assert before == []
    assert helper in [one.pid for one in tree(running.node.pid)]
    assert "pydantic_core" not in maps
    assert [name for name, _ in seen] == ["acme.scale"]
    assert running.close() == 0
    wait_for(lambda: process(helper) is None, 10.0, "the helper ends with the node")
