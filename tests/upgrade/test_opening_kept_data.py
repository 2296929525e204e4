"""This version on a data directory that an older one made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from kits import Kit
from millstream_server.environments import interpreters

from blackbox.command import Platform

pytestmark = pytest.mark.xdist_group("upgrade")


@pytest.fixture
def platform(kit: Kit, tmp_path: Path) -> Iterator[Platform]:
    """This version's command on the kit's data directory, with its node running."""
    platform = Platform(kit.data)
    node = platform.start_node(log=tmp_path / "up.txt")
    node.wait_accepting()
    yield platform
    assert node.stop() == 0, node.words()


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
    """Models with lineage and signature, runs, releases and dead letters, without a node."""
    found = Platform(kit.data).ask(*command)

    assert same(found, kit.expected[listing], kit.data), found


@pytest.mark.parametrize(("listing", "topic"), [("requests", "ml.pipeline.input"), ("results", "ml.pipeline.output")])
def test_records_are_read_as_they_were(kit: Kit, listing: str, topic: str) -> None:
    """Offset, append time, key, headers and value of every record."""
    assert list(Platform(kit.data).records(topic)) == kit.expected[listing]


def test_a_node_starts_and_answers_nothing_again(kit: Kit, platform: Platform) -> None:
    """The finished requests of the older version stay finished."""
    (row,) = platform.ask("status", "--json")["nodes"]

    assert row["accepting"]
    assert list(platform.records("ml.pipeline.output")) == kit.expected["results"]


def test_a_model_of_the_older_version_answers_and_is_trained_again(kit: Kit, platform: Platform) -> None:
    """Its release's environment is built anew from the index of the data directory, with the SDK of the older version."""
    python = str(platform.ask("releases", "show", "kept", "--json")["python"])
    if not [each for each in interpreters.installed() if each.minor == python]:
        pytest.skip(f"the kit of {kit.version} was built for Python {python}, which is not at hand")

    acme = platform.run("invoke", "kept_scale", "--tenant", "acme", "--params", '{"values": [1, 2.5]}')
    globex = platform.run("invoke", "kept_scale", "--tenant", "globex", "--params", '{"values": [1, 2.5]}')
    trained = json.loads(platform.run("invoke", "kept_learn", "--tenant", "acme", "--params", '{"factor": 5}'))

    assert [json.loads(acme), json.loads(globex)] == [[4.0, 10.0], [3.0, 7.5]]
    assert trained["version"] == 3
