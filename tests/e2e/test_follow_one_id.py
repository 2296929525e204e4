"""Following one id through the one log: intake, batch, the author's own line, the commit, in order, also across a kill."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_platform import Running, wheel

from blackbox.command import UNCONFINED
from blackbox.stream import wait_for

pytestmark = pytest.mark.xdist_group("node that is killed")

CLOCK = r"\d\d:\d\d:\d\d\.\d{3}"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`millstream up` with the package `weigh` deployed and a model of one tenant."""
    running = Running.start(tmp_path_factory.mktemp("follow") / "data", UNCONFINED)
    deployed = running.deploy(wheel("1.0.0"))
    assert deployed.code == 0, deployed.err
    running.train("acme", 3.0)
    yield running
    assert running.close() == 0


def weigh(id: str, announce: Path, **params: object) -> dict[str, object]:
    return {"id": id, "pipeline": "weigh", "tenant": "acme", "params": {"x": 4.0, "announce": str(announce), **params}}


def events(running: Running, id: str) -> list[str]:
    return [str(line["event"]) for line in running.lines(id)]


def test_one_id_shows_intake_batch_the_authors_line_and_the_commit(running: Running, tmp_path: Path) -> None:
    """Each in its turn, each naming the request; neighbours' author lines are not among them."""
    running.send([weigh("one", tmp_path / "a"), weigh("other", tmp_path / "a")])
    running.answers(["one", "other"])
    wait_for(lambda: "commit" in events(running, "one"), 10, "the commit's line")

    lines = running.lines("one")

    assert [line["event"] for line in lines] == ["intake", "dispatch", "author", "commit"]
    assert all("one" in line["requests"] for line in lines)  # type: ignore[operator]
    author = lines[2]
    assert (author["message"], author["requests"]) == ("weighs 4.0", ["one"])
    stamped = {name: author[name] for name in ("pipeline", "model", "model_version", "release", "attempt")}
    assert stamped == {"pipeline": "weigh", "model": "acme.scale", "model_version": 1, "release": "weigh==1.0.0", "attempt": 1}
    assert author["worker"] == int((tmp_path / "a").read_text().splitlines()[0])


def test_on_a_terminal_a_line_answers_which_release_did_what(running: Running, tmp_path: Path) -> None:
    """Time, level, pipeline, model and version, package and release, request, try | the author's words."""
    running.send([weigh("shown", tmp_path / "a")])
    running.answers(["shown"])
    wait_for(lambda: "commit" in events(running, "shown"), 10, "the commit's line")

    intake, batch, author, commit = running.say("logs", "--request", "shown").out.splitlines()

    assert re.fullmatch(CLOCK + r" info weigh acme.scale v1 weigh 1\.0\.0 req shown try 1 \| weighs 4\.0", author)
    assert re.fullmatch(CLOCK + r" info weigh acme req shown try 1 \| intake: 1 read in .*", intake)
    assert re.fullmatch(CLOCK + r" info weigh acme\.scale v1 weigh 1\.0\.0 req shown try 1 \| dispatch: batch \d+, 1 request", batch)
    assert re.fullmatch(CLOCK + r" info req shown \| commit: 1 in .*", commit)


def test_one_id_is_followed_across_a_kill_of_its_node(running: Running, tmp_path: Path) -> None:
    """The node dies while the request is inside a worker: the id shows up again after the restart and ends in one commit."""
    inside = tmp_path / "inside"
    running.send([weigh("survivor", inside, seconds=0.4)])
    wait_for(inside.exists, 20, "the request inside a worker")
    assert running.node is not None
    running.node.kill()

    running.up()
    answer = running.answers(["survivor"])["survivor"]
    wait_for(lambda: "commit" in events(running, "survivor"), 10, "the commit's line")

    assert (answer["status"], answer["result"], answer["attempt"]) == ("ok", 12.0, 1)
    seen = running.lines("survivor")
    assert [line["event"] for line in seen] == ["intake", "dispatch", "author", "intake", "dispatch", "author", "commit"]
    assert len(set(inside.read_text().split())) == 2
    assert sorted(str(line["ts"]) for line in seen) == [line["ts"] for line in seen]


def test_the_id_of_a_training_leads_to_the_lines_of_its_run(running: Running) -> None:
    """Intake, the run that it became, the author's words and steps, its end: one command shows them all."""
    running.send([{"id": "teach", "pipeline": "weigh_learn", "tenant": "teach", "params": {"factor": 2.0}}])
    run = running.answers(["teach"])["teach"]["run"]

    lines = running.lines("teach")

    shown = [str(line["event"]) for line in lines if line["event"] != "commit"]
    assert shown == ["intake", "submitted", "run_started", "author", "step", "step", "run_ended"]
    assert {line["run"] for line in lines if line["event"] not in ("intake", "commit")} == {run}
