"""Deploying by hand while callers go on: what would break them is refused, the way back loses nothing, and what goes wrong is told."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running_platform import Request, Running, Said, statuses, wheel

from blackbox.stream import wait_for

pytestmark = pytest.mark.xdist_group("deploying by hand")

GONE_S = 30.0
IMPORT = "import millstream as ms\n"
SLOW_HERE = (IMPORT, IMPORT + "if 'environments' in __file__:\n    time.sleep(30)\n")
BROKEN_HERE = (IMPORT, IMPORT + "if 'environments' in __file__:\n    raise ImportError('libweight.so.3 is not here')\n")
NARROWER = ("def weigh(model: Scale, x: float,", "def weigh(model: Scale, x: int,")
RENAMED = ("def length(text: str, harm", "def length(words: str, harm")
RENAMED_TOO = ("return len(text)", "return len(words)")
WIDER = ('def length(text: str, harm: str = "")', 'def length(text: str, harm: str = "", times: int = 1)')


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """`millstream up` with `weigh` 1.0.0, which trained a model of acme; every request of the test ends in exactly one result."""
    running = Running.start(tmp_path / "data")
    deployed = running.deploy(wheel("1.0.0"))
    assert deployed.code == 0, deployed.err
    running.train("acme", 3.0)
    yield running
    counts = running.counts(list(running.acks))
    assert {id: count for id, count in counts.items() if count != 1} == {}
    assert running.close() == 0


def on_disk(running: Running) -> list[str]:
    """Versions that have an environment on this machine, finished or under way (`.tmp`)."""
    names = [path.name for path in (running.platform.data_dir / "environments").iterdir()]
    return sorted(name.partition("-" if name.startswith(".tmp") else "+")[0] for name in names)


def phase(running: Running, version: str) -> str:
    """What the node does for a release just now."""
    assert running.node is not None
    rows = (running.node.status() or {}).get("releases", [])
    assert isinstance(rows, list)
    return next((str(row["phase"]) for row in rows if row["version"] == version), "")


def answer(running: Running, name: str, pipeline: str = "length", **params: object) -> dict[str, object]:
    request: Request = {"id": name, "pipeline": pipeline, "tenant": "acme", "params": params or {"text": "four"}}
    running.send([request])
    return running.answers([name])[name]


class Stream:
    """Callers that ask one after the other, for as long as something else is done."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.ids: list[str] = []

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._stop.is_set():
            number = len(self.ids)
            sent: list[Request | bytes] = [
                {"id": f"length-{number}", "pipeline": "length", "tenant": "acme", "params": {"text": "four"}},
                {"id": f"weigh-{number}", "pipeline": "weigh", "tenant": "acme", "params": {"x": 2.0}},
            ]
            self._running.send(sent)
            self.ids += [str(one["id"]) for one in sent if isinstance(one, dict)]
            time.sleep(0.02)


def at_once(*calls: Callable[[], Said]) -> list[Said]:
    """Call them at the same time; what each said, in their order."""
    said: dict[int, Said] = {}
    threads = [threading.Thread(target=lambda number=number, call=call: said.update({number: call()})) for number, call in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [said[number] for number in range(len(calls))]


def test_a_release_that_breaks_callers_is_refused_and_can_be_allowed(running: Running) -> None:
    """Every place is named, before and after; allowed, it is deployed and callers get what was told."""
    running.platform.run("publish", str(wheel("2.0.0", NARROWER, RENAMED, RENAMED_TOO)))

    refused = running.say("deploy", "weigh==2.0.0")
    shown = running.say("releases", "show", "weigh==2.0.0")
    after_refusal = statuses(running)
    allowed = running.say("deploy", "weigh==2.0.0", "--allow-breaking")

    assert (refused.code, refused.out) == (3, "")
    assert refused.err.startswith("error[breaks-callers]: weigh==2.0.0 would break callers of weigh==1.0.0 in 3 places:\n")
    places = [
        "weigh: parameter $.x takes less: number before, integer now",
        "length: parameter $.words is new and has no default: string now",
        "length: parameter $.text is gone: string before",
    ]
    assert all(f"\n  {place}\n" in refused.err for place in places), refused.err
    assert "another name" in refused.err
    assert "millstream deploy weigh==2.0.0 --allow-breaking" in refused.err
    assert "callers of weigh==1.0.0, if it were deployed:" in shown.out
    assert all(place in shown.out for place in places)
    assert after_refusal == {"1.0.0": "CURRENT", "2.0.0": "PUBLISHED"}
    assert allowed.code == 0, allowed.err
    assert "warning: weigh==2.0.0 breaks callers of weigh==1.0.0:\n" in allowed.err
    assert all(place in allowed.err for place in places)
    assert answer(running, "as-before")["status"] == "invalid"
    assert answer(running, "renamed", words="four")["result"] == 4
    assert answer(running, "of-the-old-model", "weigh", x=1.5)["result"] == 4.5  # by the release that trained it


def test_a_rollback_under_a_stream_of_requests_fails_none(running: Running) -> None:
    """There and back again while callers ask: each has one good answer; a model stays with the release that trained it."""
    with Stream(running) as stream:
        forth = running.deploy(wheel("2.0.0", WIDER))
        running.train("acme", 3.0)
        back = running.say("deploy", "--rollback", "weigh")
        there_again = running.say("deploy", "--rollback", "weigh")
        back_again = running.say("deploy", "--rollback", "weigh")

    answers = running.answers(stream.ids)
    assert [each.code for each in (forth, back, there_again, back_again)] == [0, 0, 0, 0], back.err
    assert back.err.startswith("back from 2.0.0 to 1.0.0; models stay with the releases that trained them\n")
    assert "warning: weigh==1.0.0 breaks callers of weigh==2.0.0:\n  length: parameter $.times is gone" in back.err
    assert "back from 1.0.0 to 2.0.0" in there_again.err
    assert {(one["status"], one["result"]) for one in answers.values()} == {("ok", 4), ("ok", 6.0)}
    assert {one["release"] for one in answers.values()} == {"weigh==1.0.0", "weigh==2.0.0"}
    assert answer(running, "after")["release"] == "weigh==1.0.0"
    assert answer(running, "model", "weigh", x=2.0)["release"] == "weigh==2.0.0"
    assert statuses(running) == {"1.0.0": "CURRENT", "2.0.0": "KEPT"}


def test_the_way_back_by_its_version_is_checked_and_names_the_emergency_way(running: Running) -> None:
    """Callers may use by now what the newer release added; a release that nobody needed any more comes back from the index."""
    assert running.deploy(wheel("2.0.0", WIDER)).code == 0

    refused = running.say("deploy", "weigh==1.0.0")
    nothing_before = running.say("deploy", "--rollback", "nobody")
    for version in ("3.0.0", "4.0.0"):
        assert running.deploy(wheel(version, WIDER)).code == 0
    wait_for(lambda: statuses(running)["2.0.0"] == "RETIRED" and "2.0.0" not in on_disk(running), GONE_S, "2.0.0 is retired and removed")
    from_retirement = running.say("deploy", "weigh==2.0.0")

    assert refused.code == 3
    assert "length: parameter $.times is gone" in refused.err
    assert "millstream deploy --rollback weigh" in refused.err
    assert nothing_before.code == 3
    assert "there is nothing to go back to" in nothing_before.err
    assert from_retirement.code == 0, from_retirement.err
    assert statuses(running)["2.0.0"] == "CURRENT"
    assert answer(running, "again")["release"] == "weigh==2.0.0"


def test_a_deployment_cancelled_half_way_leaves_nothing_on_the_disk(running: Running) -> None:
    """The environment that was being made disappears, its processes end, the old release answers all the time."""
    running.platform.run("publish", str(wheel("2.0.0", SLOW_HERE)))
    with Stream(running) as stream:
        assert running.say("deploy", "weigh==2.0.0", "--no-wait").code == 0
        wait_for(lambda: phase(running, "2.0.0") == "probe", GONE_S, "its environment is imported")
        half_way = on_disk(running)

        cancelled = running.say("deploy", "--cancel", "weigh")
        wait_for(lambda: on_disk(running) == ["1.0.0"], 10.0, "what was being made is removed")

    assert ".tmp" in half_way
    assert cancelled.code == 0
    assert "current is weigh==1.0.0" in cancelled.err
    assert {one["status"] for one in running.answers(stream.ids).values()} == {"ok"}
    assert statuses(running) == {"1.0.0": "CURRENT", "2.0.0": "FAILED"}
    assert importing(running) == []


def importing(running: Running) -> list[str]:
    """Processes that import a package in an environment of this platform."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in listed if "--probe" in line and str(running.platform.data_dir) in line]


def test_of_two_deployments_at_once_the_second_is_refused_and_the_same_one_is_followed(running: Running) -> None:
    """Another version is told who is under way, and both ways on; the same version asked for twice is current for both."""
    running.platform.run("publish", str(wheel("2.0.0", SLOW_HERE)))
    running.platform.run("publish", str(wheel("3.0.0", WIDER)))
    assert running.say("deploy", "weigh==2.0.0", "--no-wait").code == 0

    other = running.say("deploy", "weigh==3.0.0")
    back = running.say("deploy", "--rollback", "weigh")
    assert running.say("deploy", "--cancel", "weigh").code == 0
    both = at_once(*[lambda: running.say("deploy", "weigh==3.0.0")] * 2)

    for refused in (other, back):
        assert refused.code == 4
        assert "weigh==2.0.0 is being deployed, and a package has one deployment at a time" in refused.err
        assert "millstream deploy weigh==2.0.0; or give it up: millstream deploy --cancel weigh" in refused.err
    assert [each.code for each in both] == [0, 0], both
    assert statuses(running) == {"1.0.0": "KEPT", "2.0.0": "FAILED", "3.0.0": "CURRENT"}


def test_of_two_packages_at_once_both_come_and_of_one_name_only_one_has_it(running: Running) -> None:
    """Packages do not wait for each other; where both have a pipeline of the same name, one command is told who has it."""
    gauge, rival = renamed("gauge"), renamed("rival", "gauge")
    for path in (gauge, rival, wheel("2.0.0", WIDER)):
        running.platform.run("publish", str(path))

    with Stream(running) as stream:
        both = at_once(lambda: running.say("deploy", "gauge==1.0.0"), lambda: running.say("deploy", "weigh==2.0.0"))
        rivals = at_once(lambda: running.say("deploy", "gauge==1.0.0"), lambda: running.say("deploy", "rival==1.0.0"))

    assert [each.code for each in both] == [0, 0], both
    assert [each.code for each in rivals] == [0, 3], rivals
    assert "error[pipeline-name-taken]: rival==1.0.0 has gauge, gauge_all, gauge_learn, gauge_length, gauge_repeat" in rivals[1].err
    assert {one["status"] for one in running.answers(stream.ids).values()} == {"ok"}
    assert answer(running, "gauged", "gauge_length", text="four")["release"] == "gauge==1.0.0"


def renamed(package: str, pipelines: str = "") -> Path:
    """`weigh` as another package, with pipelines and a model of its own, or with those of a third."""
    name = pipelines or package
    functions = [("def weigh_learn(", f"def {name}_learn("), ("def weigh(", f"def {name}("), ("def weigh_all(", f"def {name}_all(")]
    functions += [("def length(", f"def {name}_length("), ("def repeat(", f"def {name}_repeat("), ('model="scale"', f'model="{name}"')]
    return wheel("1.0.0", ('name = "weigh"', f'name = "{package}"'), *functions)


def test_a_release_whose_import_fails_here_is_told_by_node_and_the_old_one_answers(running: Running) -> None:
    """The line of the node has the reason, the error the way on; the release that answered goes on, and there is no way back to undo."""
    with Stream(running) as stream:
        said = running.deploy(wheel("2.0.0", BROKEN_HERE))

    assert said.code == 4
    (broken,) = [line for line in said.err.splitlines() if line.split()[:1] == ["BROKEN"]]
    assert "libweight.so.3 is not here" in broken
    assert " on " in broken
    assert "weigh==2.0.0 was given up: " in said.err
    assert said.err.rpartition("mend: ")[2].startswith("mend the line that the message names")
    assert "; millstream logs --release weigh==2.0.0; then deploy again" in said.err
    assert {(one["status"], one["release"]) for one in running.answers(stream.ids).values()} == {("ok", "weigh==1.0.0")}
    assert statuses(running) == {"1.0.0": "CURRENT", "2.0.0": "FAILED"}
    assert "no release of weigh is kept beside weigh==1.0.0" in running.say("deploy", "--rollback", "weigh").err
