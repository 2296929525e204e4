"""This version on a data directory that an older one made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from kits import HERE, KITS, Kit
from millstream_server import __version__
from millstream_server.adapters.sql import SqlStore
from millstream_server.environments import interpreters

from blackbox.command import Platform
from blackbox.stream import wait_for

pytestmark = pytest.mark.xdist_group("upgrade")


@dataclass
class Opened:
    """A kit's data directory with a node of this version on it."""

    kit: Kit
    platform: Platform

    def results(self) -> list[dict[str, object]]:
        return [dict(record["value"]) for record in self.platform.records("ml.pipeline.output")]


@pytest.fixture(scope="module", params=KITS)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """Each kit with one node for all tests; none of them looks at what another one asks for."""
    folder = tmp_path_factory.mktemp("kit")
    kit = Kit(request.param, folder / "data")
    platform = Platform(kit.data)
    node = platform.start_node(log=folder / "up.txt")
    try:
        node.wait_accepting()
        yield Opened(kit, platform)
    finally:
        code = node.stop()
    assert code == 0, node.words()


def same(found: object, kept: object, data: Path) -> bool:
    """Whether a listing says at least what it said when the kit was made; paths of the data directory aside."""
    if isinstance(kept, dict) and isinstance(found, dict):
        return all(name in found and same(found[name], value, data) for name, value in kept.items())
    if isinstance(kept, list) and isinstance(found, list):
        return len(found) == len(kept) and all(same(one, other, data) for one, other in zip(found, kept, strict=True))
    return found == (kept.replace("DATA", str(data)) if isinstance(kept, str) else kept)


@pytest.mark.parametrize(
    ("listing", "command"),
    [
        ("models", ("models", "list", "--json")),
        ("runs", ("runs", "list", "--json")),
        ("releases", ("releases", "list", "--json")),
        ("dead_letters", ("dlq", "list", "--json")),
    ],
)
def test_listings_say_what_they_said(kit: Kit, listing: str, command: tuple[str, ...]) -> None:
    """Models with lineage and signature, runs, releases and dead letters, of a store that was brought up to date and has no node yet."""
    SqlStore.open(f"sqlite:///{kit.data}/store.sqlite", create=True).close()

    found = Platform(kit.data).ask(*command)

    assert same(found, kit.expected[listing], kit.data), found


@pytest.mark.parametrize(("listing", "topic"), [("requests", "ml.pipeline.input"), ("results", "ml.pipeline.output")])
def test_records_are_read_as_they_were(kit: Kit, listing: str, topic: str) -> None:
    """Offset, append time, key, headers and value of every record."""
    assert list(Platform(kit.data).records(topic)) == kit.expected[listing]


def test_a_node_answers_what_was_open_and_nothing_again(opened: Opened) -> None:
    """Finished requests of the older version stay finished; those it left, and the run it was killed in, are answered once."""
    kit, platform = opened.kit, opened.platform
    (row,) = platform.ask("status", "--json")["nodes"]
    before = {value["id"]: value for value in (record["value"] for record in kit.expected["results"])}

    wait_for(lambda: {one["id"] for one in opened.results()} >= {*before, *kit.unanswered}, 60, "an answer to each request that was left")

    results = opened.results()
    found = {value["id"]: value for value in results}
    assert row["accepting"]
    assert len(results) == len(found)
    assert {request: found[request] for request in before} == before
    assert {request: said(found[request]) for request in kit.unanswered} == kit.unanswered
    for run in platform.ask("runs", "list", "--tenant", "initech", "--json"):
        assert [(each["attempt"], each["end"]) for each in run["attempts"]] == [(1, "lost"), (2, "succeeded")]


def said(result: dict[str, object]) -> object:
    """What a result says in one word: its value, the code of its error, or that a run ended well."""
    error, value = result.get("error"), result.get("result")
    if isinstance(error, dict):
        return error["code"]
    return result["status"] if isinstance(value, dict) else value


def test_a_model_of_the_older_version_answers_and_is_trained_again(opened: Opened) -> None:
    """Its release's environment is built anew from the index of the data directory, with the SDK of the older version."""
    kit, platform = opened.kit, opened.platform
    python = str(platform.ask("releases", "show", "kept", "--json")["python"])
    if not [each for each in interpreters.installed() if each.minor == python]:
        pytest.skip(f"the kit of {kit.version} was built for Python {python}, which is not at hand")

    acme = platform.run("invoke", "kept_scale", "--tenant", "acme", "--params", '{"values": [1, 2.5]}')
    globex = platform.run("invoke", "kept_scale", "--tenant", "globex", "--params", '{"values": [1, 2.5]}')
    trained = json.loads(platform.run("invoke", "kept_learn", "--tenant", "acme", "--params", '{"factor": 5}'))

    assert [json.loads(acme), json.loads(globex)] == [[4.0, 10.0], [3.0, 7.5]]
    assert trained["version"] == 3


def test_releases_of_the_older_sdk_and_of_this_one_answer_from_one_node(opened: Opened, tmp_path: Path) -> None:
    """A package that was built today stands beside the kept one, each in an environment with its own SDK."""
    kit, platform = opened.kit, opened.platform
    source = tmp_path / "added"
    (source / "src" / "added").mkdir(parents=True)
    (source / "pyproject.toml").write_text((HERE / "package" / "pyproject.toml").read_text().replace("kept", "added"))
    (source / "src" / "added" / "__init__.py").write_text(
        "import millstream as ms\n\n\n@ms.inference\ndef added_double(a: float) -> float:\n    return 2 * a\n"
    )
    for command in (("build", str(source)), ("publish", str(source)), ("deploy", "added==1.0.0")):
        platform.run(*command)

    doubled = platform.run("invoke", "added_double", "--params", '{"a": 21}')
    kept = platform.run("invoke", "kept_add", "--params", '{"a": 20, "b": 22}')

    assert [json.loads(doubled), json.loads(kept)] == [42.0, 42.0]
    sdks = (kit.data / "environments").glob("*/lib/python*/site-packages/millstream_sdk-*.dist-info")
    assert {path.name for path in sdks} == {f"millstream_sdk-{version}.dist-info" for version in (kit.version, __version__)}
