"""Releases on a server with a login: published, deployed, refused, and served on while the index is away."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_platform import Request, Running, environments, statuses, wheel

from blackbox.package_index import PASSWORD, USER, PackageIndex, write_wheel
from blackbox.processes import tree


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PackageIndex]:
    """A running pypiserver with a login."""
    index = PackageIndex(tmp_path_factory.mktemp("pypiserver"))
    try:
        yield index.start()
    finally:
        index.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, server: PackageIndex) -> Iterator[Running]:
    """A node whose releases lie on the server, with weigh 1.0.0 deployed and a model of tenant acme."""
    login = {"MILLSTREAM_INDEX_USERNAME": USER, "MILLSTREAM_INDEX_PASSWORD": PASSWORD}
    platform = Running.start(tmp_path_factory.mktemp("private") / "data", {"MILLSTREAM_SHARED_INDEX": server.bare, **login})
    assert platform.deploy(wheel("1.0.0")).code == 0
    platform.train("acme", 4.0)
    yield platform
    assert platform.close() == 0


def questions(name: str) -> list[Request]:
    """Ten requests of tenant acme."""
    return [{"id": f"{name}-{n}", "pipeline": "weigh", "tenant": "acme", "params": {"x": float(n)}} for n in range(10)]


def all_answered(running: Running, name: str) -> None:
    """Each of the ten has its one right answer."""
    answers = running.answers([f"{name}-{n}" for n in range(10)])
    assert [answers[f"{name}-{n}"].get("result") for n in range(10)] == [n * 4.0 for n in range(10)]


def test_a_release_on_the_server_is_installed_and_the_password_stays_with_the_node(running: Running, server: PackageIndex) -> None:
    """Wheel and SDK lie on the server; no file of the data directory and no worker knows the password."""
    running.send(questions("served"))
    all_answered(running, "served")

    assert {path.name.split("-")[0] for path in server.wheels.iterdir()} == {"weigh", "millstream_sdk"}
    written = [path for path in running.platform.data_dir.rglob("*") if path.is_file() and "environments" not in path.parts]
    assert written
    assert not [path for path in (*written, running.log) if PASSWORD.encode() in path.read_bytes()]
    assert running.node is not None
    _, *others = tree(running.node.pid)
    assert others
    for process in others:
        assert PASSWORD.encode() not in Path(f"/proc/{process.pid}/environ").read_bytes()


def test_a_node_whose_login_is_refused_says_so_and_the_old_release_serves_on(running: Running, server: PackageIndex) -> None:
    """A node starts and answers without the index; what it cannot fetch is given up with the reason, and works once that is mended."""
    assert running.node is not None
    running.node.stop()
    right = running.platform.settings
    running.platform.settings = {**right, "MILLSTREAM_INDEX_PASSWORD": "another-word"}
    running.up()
    running.platform.settings = right
    running.platform.run("publish", str(wheel("1.1.0")))

    running.send(questions("before"))
    refused = running.say("deploy", "weigh==1.1.0")
    running.send(questions("after"))

    assert refused.code == 4
    assert "refused the login of robot" in refused.err, refused.err
    assert "another-word" not in refused.err
    all_answered(running, "before")
    all_answered(running, "after")
    states = statuses(running)
    assert (states["1.0.0"], states["1.1.0"]) == ("CURRENT", "FAILED")

    running.restart()
    assert running.say("deploy", "weigh==1.1.0").code == 0


def test_another_file_under_a_published_name_is_refused_and_the_old_release_serves_on(
    running: Running, server: PackageIndex, tmp_path: Path
) -> None:
    """The server's keeper, or whoever got in, replaced the wheel: nothing of it is run."""
    published = wheel("1.2.0")
    running.platform.run("publish", str(published))
    shutil.copy(write_wheel(tmp_path, "weigh", "1.2.0", "evil"), server.wheels / published.name)

    refused = running.say("deploy", "weigh==1.2.0")
    running.send(questions("replaced"))

    assert refused.code == 3
    assert "carries no millstream/manifest.json" in refused.err
    all_answered(running, "replaced")
    assert "1.2.0" not in environments(running)


def test_an_index_that_is_away_stops_deployments_and_nothing_else(running: Running, server: PackageIndex) -> None:
    """The command says what cannot be reached; requests are answered meanwhile."""
    server.close()
    try:
        refused = running.say("deploy", "weigh==9.9.9")
        listed = running.say("releases", "list")
        running.send(questions("away"))
        all_answered(running, "away")
    finally:
        server.start()

    assert listed.code == 0
    assert "weigh==1.0.0" in listed.out
    assert "what is only published is not listed" in listed.err
    assert refused.code == 5
    assert "error[index-unavailable]" in refused.err
    assert "connection refused" in refused.err
