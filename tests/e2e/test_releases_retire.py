"""Releases that nobody needs any more give their environments back; those that a model or a request needs never do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from running_platform import Request, Running, environments, statuses, wheel

from blackbox.stream import wait_for

pytestmark = pytest.mark.xdist_group("releases that retire")

GONE_S = 30.0
PATIENT = ("TIMEOUT_S = 1.0", "TIMEOUT_S = 60.0")
"""Or a batch of slow requests is ended, and each of them routed anew."""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """`millstream up` with `weigh` 1.0.0, which trained a model of acme; what nobody calls for 2 s sleeps."""
    running = Running.start(tmp_path / "data", {"MILLSTREAM_NODE_SLEEP_AFTER_S": "2"})
    deployed = running.deploy(wheel("1.0.0", PATIENT))
    assert deployed.code == 0, deployed.err
    running.train("acme", 3.0)
    yield running
    counts = running.counts(list(running.acks))
    assert {id: count for id, count in counts.items() if count != 1} == {}
    assert running.close() == 0


def on_node(running: Running, version: str) -> dict[str, object]:
    """What the node says of a release; empty where it has none."""
    assert running.node is not None
    rows = (running.node.status() or {}).get("releases", [])
    assert isinstance(rows, list)
    return next((row for row in rows if row["version"] == version), {})


def ask(name: str, seconds: float = 0.0) -> Request:
    return {"id": name, "pipeline": "weigh", "tenant": "acme", "params": {"x": 2.0, "seconds": seconds}}


def test_a_release_lives_as_long_as_its_models_and_its_requests(running: Running) -> None:
    """Kept for a champion, then for the way back to it, then for requests that wait in the node, and then it is gone from the disk."""
    for version in ("2.0.0", "3.0.0"):
        assert running.deploy(wheel(version)).code == 0
    wait_for(lambda: statuses(running) == {"1.0.0": "KEPT", "2.0.0": "KEPT", "3.0.0": "CURRENT"}, GONE_S, "two are kept")
    assert running.deploy(wheel("4.0.0")).code == 0

    wait_for(lambda: statuses(running)["2.0.0"] == "RETIRED", GONE_S, "neither needed nor the previous one")
    wait_for(lambda: environments(running) == {"1.0.0", "3.0.0", "4.0.0"}, GONE_S, "the retired one's environment is removed")
    running.send([ask("old")])
    assert running.answers(["old"])["old"]["release"] == "weigh==1.0.0"
    wait_for(lambda: on_node(running, "3.0.0")["environment"] == "ASLEEP", GONE_S, "nobody calls the previous one")

    running.train("acme", 4.0)
    running.answers_to("acme", ask("new"), result=8.0)
    assert statuses(running)["1.0.0"] == "KEPT"  # its version is the way back
    assert running.answers([f"{ask('new')['id']}-acme-0"])

    running.train("acme", 5.0)
    wait_for(lambda: statuses(running)["1.0.0"] == "RETIRED", GONE_S, "no live model needs it")
    wait_for(lambda: environments(running) == {"3.0.0", "4.0.0"}, GONE_S, "its environment is removed")
    running.answers_to("acme", ask("newest"), result=10.0)


def test_a_release_waits_for_the_requests_in_the_node(running: Running) -> None:
    """They were routed to it before its models were trained anew, and it answers every one of them."""
    assert running.deploy(wheel("2.0.0")).code == 0
    assert running.deploy(wheel("3.0.0")).code == 0
    waiting = [ask(f"waits-{number}", 0.6) for number in range(40)]
    running.send(waiting)
    wait_for(lambda: on_node(running, "1.0.0").get("in_flight"), GONE_S, "they are being answered")

    running.train("acme", 4.0)
    running.train("acme", 5.0)
    wait_for(lambda: statuses(running)["1.0.0"] == "RETIRED", GONE_S, "no live model needs it")
    wait_for(lambda: "requests" in str(on_node(running, "1.0.0").get("reason")), GONE_S, "the node says what keeps it")
    assert "1.0.0" in environments(running)

    answers = running.answers([str(one["id"]) for one in waiting], timeout_s=60.0)
    assert {(a["status"], a["result"], a["release"]) for a in answers.values()} == {("ok", 6.0, "weigh==1.0.0")}
    wait_for(lambda: "1.0.0" not in environments(running), GONE_S, "its environment is removed")


def test_the_way_back_is_short_and_the_way_forward_too(running: Running) -> None:
    """The previous release sleeps, its environment stays: deploying it again installs nothing."""
    assert running.deploy(wheel("2.0.0")).code == 0
    assert running.deploy(wheel("3.0.0")).code == 0
    wait_for(lambda: on_node(running, "2.0.0").get("environment") == "ASLEEP", GONE_S, "the previous one sleeps")
    before = (running.platform.data_dir / "environments").stat().st_mtime_ns

    assert running.say("deploy", "weigh==2.0.0").code == 0

    assert statuses(running) == {"1.0.0": "KEPT", "2.0.0": "CURRENT", "3.0.0": "KEPT"}
    assert (running.platform.data_dir / "environments").stat().st_mtime_ns == before
    running.send([{"id": "length", "pipeline": "length", "tenant": "acme", "params": {"text": "four"}}])
    assert running.answers(["length"])["length"]["release"] == "weigh==2.0.0"


def test_environments_of_before_are_removed_by_the_next_process(running: Running) -> None:
    """A node that was down while a release retired has its environment still on the disk."""
    assert running.deploy(wheel("2.0.0")).code == 0
    wait_for(lambda: environments(running) == {"1.0.0", "2.0.0"}, GONE_S, "both are installed")
    left = next((running.platform.data_dir / "environments").glob("1.0.0+*"))
    copy = left.with_name("0.9.0+000000000000")
    import shutil

    shutil.copytree(left, copy, symlinks=True)
    (copy / "MANIFEST.json").chmod(0o644)
    sealed = (copy / "MANIFEST.json").read_text().replace(left.name, copy.name)
    copy.chmod(0o755)
    (copy / "MANIFEST.json").unlink()
    (copy / "MANIFEST.json").write_text(sealed)

    running.restart()

    wait_for(lambda: environments(running) == {"1.0.0", "2.0.0"}, GONE_S, "what no release names is removed")
