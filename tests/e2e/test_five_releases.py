"""Five releases whose libraries exclude each other answer side by side, from one node, each for the tenants that it trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from running_platform import Request, Running, environments, statuses, wheel

from blackbox.stream import wait_for

pytestmark = [pytest.mark.xdist_group("whole machine"), pytest.mark.timeout(600)]  # five installations

RELEASES = {
    "1.0.0": ("1.26.4", "1.4.2"),
    "2.0.0": ("1.26.4", "1.5.2"),
    "3.0.0": ("2.0.2", "1.5.2"),
    "4.0.0": ("2.2.6", "1.6.1"),
    "5.0.0": ("2.2.6", "1.7.2"),
}
"""By version numpy and scikit-learn."""
OTHER_PYTHON = ("4.0.0", "3.12")
"""The release that asks for a Python of another minor, where this machine has it."""
TENANTS = [f"{letter}{version[0]}" for version in RELEASES for letter in "ab"]
MOVED = TENANTS[:2]
"""Those of the first release, who are trained anew on the way."""
REQUESTS, AT_ONCE = 10_000, 1_000
SLOW, SLOW_S = 90, 0.4
SETTLED_S = 60.0


def built(version: str) -> Path:
    """The wheel of a release; without the other Python where there is none."""
    numpy, sklearn = RELEASES[version]
    changes = (("numpy==1.26.4", f"numpy=={numpy}"), ("scikit-learn==1.4.2", f"scikit-learn=={sklearn}"))
    if version == OTHER_PYTHON[0]:
        try:
            return wheel(version, *changes, ('">=3.11"', f'"=={OTHER_PYTHON[1]}.*"'), package="blend")
        except AssertionError as error:
            if "no-interpreter" not in str(error):
                raise
    return wheel(version, *changes, package="blend")


def threshold_of(tenant: str) -> float:
    return float(TENANTS.index(tenant)) * 10


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """`millstream up` with all five releases, each of which trained two tenants while it was current."""
    running = Running.start(tmp_path / "data")
    for version in RELEASES:
        deployed = running.deploy(built(version))
        assert deployed.code == 0, deployed.err
        for tenant in (one for one in TENANTS if one[1] == version[0]):
            train(running, tenant)
    yield running
    counts = running.counts(list(running.acks))
    assert {id: count for id, count in counts.items() if count != 1} == {}
    assert running.close() == 0


def train(running: Running, tenant: str) -> None:
    running.platform.run("invoke", "blend_learn", "--tenant", tenant, "--params", f'{{"threshold": {threshold_of(tenant)}}}')


def requests(first: int, count: int) -> list[Request]:
    """Of all tenants in turns; every second number lies above its tenant's threshold."""
    made: list[Request] = []
    for number in range(first, first + count):
        tenant = TENANTS[number % len(TENANTS)]
        x = threshold_of(tenant) + (5.0 if is_above(number) else -5.0)
        made.append({"id": f"blend-{number}", "pipeline": "blend", "tenant": tenant, "params": {"rows": [x]}})
    return made


def is_above(number: int) -> bool:
    return number // len(TENANTS) % 2 == 0


def releases_named(answer: dict[str, object]) -> set[str]:
    """The release that an answer names, and that its pipeline and its model say by themselves; with the libraries that they saw."""
    said = answer["result"]
    said = said[0] if isinstance(said, list) else said
    assert isinstance(said, dict), answer
    made, trained = said["made_with"], said["trained_with"]
    assert made == trained, answer
    assert (made["numpy"], made["sklearn"]) == RELEASES[made["release"]], answer
    return {str(answer["release"]).removeprefix("blend=="), made["release"]}


def test_each_answer_is_made_by_the_release_that_trained_its_model(running: Running) -> None:
    """10,000 interleaved requests of ten tenants; on the way the first release loses its models, answers what it was given, and is
    removed, and its tenants' requests go to the release that trained them anew."""
    assert running.node is not None
    pid = running.node.pid
    assert statuses(running) == {**dict.fromkeys(RELEASES, "KEPT"), "5.0.0": "CURRENT"}
    slow = [
        {"id": f"slow-{n}", "pipeline": "blend_slowly", "tenant": MOVED[0], "params": {"x": 5.0, "seconds": SLOW_S}} for n in range(SLOW)
    ]
    running.send(requests(0, AT_ONCE))
    running.send(slow)
    for _ in range(2):  # so that neither the champion nor the way back is the first release's
        for tenant in MOVED:
            train(running, tenant)
    for sent in range(AT_ONCE, REQUESTS, AT_ONCE):
        running.send(requests(sent, AT_ONCE))
    wait_for(lambda: statuses(running)["1.0.0"] == "RETIRED", SETTLED_S, "no live model needs the first release")
    assert not all(running.results[str(one["id"])] for one in slow)
    assert "1.0.0" in environments(running), "its requests in the node are not answered yet"

    answers = running.answers([f"blend-{number}" for number in range(REQUESTS)], timeout_s=120.0)
    slowly = running.answers([str(one["id"]) for one in slow], timeout_s=120.0)

    for number in range(REQUESTS):
        tenant, answer = TENANTS[number % len(TENANTS)], answers[f"blend-{number}"]
        assert answer["status"] == "ok", answer
        assert answer["result"][0]["above"] is is_above(number), answer  # type: ignore[index]
        allowed = {"1.0.0", "5.0.0"} if tenant in MOVED else {f"{tenant[1]}.0.0"}
        (named,) = releases_named(answer)
        assert named in allowed, answer
    assert {named for answer in slowly.values() for named in releases_named(answer)} == {"1.0.0"}
    assert {answers[f"blend-{number}"]["release"] for number in range(REQUESTS - len(TENANTS), REQUESTS)} == {
        f"blend=={version}" for version in RELEASES if version != "1.0.0"
    }
    pythons = {str(answer["result"][0]["made_with"]["python"]).rpartition(".")[0] for answer in answers.values()}  # type: ignore[index]
    assert len(pythons) in (1, 2)
    wait_for(lambda: environments(running) == set(RELEASES) - {"1.0.0"}, SETTLED_S, "the first release's environment is removed")
    assert (running.node.pid, running.node.alive()) == (pid, True)
