"""What may be removed by hand, and what is told where it may not."""

from __future__ import annotations

from pathlib import Path

import pytest
from millstream_server import app
from millstream_server.cli.inventory import Found, Known, environments, look, refusal
from millstream_server.core.keeping import Verdict
from millstream_server.core.status import NodeStatus, ReleaseStatusRow
from millstream_server.environments.venv import Sizes

from .conftest import run_command

BUILD = "1.0.0+abc"
ROW = ReleaseStatusRow("anomaly", "1.0.0", BUILD, "READY")


def known(*rows: ReleaseStatusRow, holder: str = "pid 7: millstream up", spoke: bool = True) -> Known:
    said = NodeStatus("node-1", "i", 7, "all", "0.1.0", 1, "s", "l", True, False, 0, 0, 0, 0, 0, releases=rows)
    return Known({}, (), holder, said if spoke else None, True)


def found(kind: str, why: str = "current") -> Found:
    verdict = Verdict(kind, why)  # type: ignore[arg-type]
    return Found("anomaly", "1.0.0", BUILD, Path("/environments") / BUILD, "READY", "", verdict, None, Sizes(0, 0))


NOBODY = known(holder="", spoke=False)


@pytest.mark.parametrize(
    ("what", "node"),
    [
        (found("by hand"), known()),
        (found("left over"), known()),
        (found("by hand"), NOBODY),
        (found("left over"), NOBODY),
        (found("needed"), NOBODY),
    ],
)
def test_what_no_node_has_a_part_in_can_be_removed(what: Found, node: Known) -> None:
    """Without a node also what the next one needs: it makes that anew."""
    assert refusal(node, what) is None


@pytest.mark.parametrize(
    ("what", "node", "why", "mend"),
    [
        (found("needed"), known(ROW), "the node node-1 needs it: current", "millstream deploy anomaly==VERSION"),
        (found("needed", "it answers for 2 models"), known(ROW), "it answers for 2 models", "millstream models list"),
        (found("needed", "previous"), known(ROW), "previous", "node.keep_previous"),
        (found("used", "kept for 3 requests"), known(ROW), "kept for 3 requests", "by itself"),
        (found("left over", "nothing needs it"), known(ROW), "still has it", "by itself"),
        (found("used", "a command works in it"), known(), "a command works in it", "let it end first"),
        (found("used", "a command works in it"), NOBODY, "a command works in it", "let it end first"),
        (found("left over"), known(spoke=False), "does not say what it uses", "millstream status"),
        (found("by hand"), known(spoke=False), "does not say what it uses", "millstream status"),
    ],
)
def test_what_is_needed_or_used_is_refused_with_its_mend(what: Found, node: Known, why: str, mend: str) -> None:
    """Also where a node holds the data directory and has not said yet what it uses: nobody guesses."""
    refused = refusal(node, what)

    assert refused is not None
    assert why in refused[0]
    assert mend in refused[1]


def test_a_data_directory_that_was_only_published_to_can_be_looked_at(tmp_path: Path) -> None:
    """It has no store yet, and making one is not what a look is for."""
    from millstream_server import config

    ports = app.open_ports(config.load(tmp_path / "data", {}, environ={}), create=True)
    try:
        found_there = look(ports)
        assert (found_there.packages, found_there.holder, found_there.node) == ({}, "", None)
        assert environments(ports, found_there) == []
        assert not (tmp_path / "data" / "store.sqlite").exists()
    finally:
        ports.close()


def test_without_a_data_directory_each_command_says_so(tmp_path: Path) -> None:
    """With the step that makes one."""
    for words in (["list"], ["setup", "anomaly==1.0.0"], ["show", "anomaly==1.0.0"], ["shell", "anomaly==1.0.0"]):
        said = run_command("environments", *words, "--data-dir", str(tmp_path / "none"))
        assert (said.returncode, said.stdout) == (5, "")
        assert "mend: millstream up --data-dir" in said.stderr
