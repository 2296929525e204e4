"""One screen: what is wrong first, what works below it, never more than fits."""

from __future__ import annotations

import msgspec
from millstream_server.cli.status import draw
from millstream_server.core.status import NodeStatus, ReleaseStatusRow, WorkerStatus, encode_status
from millstream_server.core.store import NodeRow

NOW_MS = 1_800_000_000_000


def release(package: str = "anomaly", version: str = "2.0.0", **changes: object) -> ReleaseStatusRow:
    row = ReleaseStatusRow(
        package,
        version,
        f"{version}+abc",
        "READY",
        release="CURRENT",
        workers=(WorkerStatus(11, "idle"), WorkerStatus(12, "spare")),
        models=5,
        requests_per_s=320.04,
        p99_ms=12.3,
    )
    return msgspec.structs.replace(row, **changes)


def row(node: str = "node-1", *, age_ms: int = 200, **changes: object) -> NodeRow:
    status = NodeStatus(
        node=node,
        instance="i",
        pid=4242,
        role="all",
        version="0.1.0",
        started_ms=NOW_MS - 65_000,
        store_id="s",
        log_id="l",
        accepting=True,
        paused=False,
        queued=0,
        lag=0,
        answered=9,
        runs_queued=0,
        runs_running=0,
    )
    return NodeRow(node, "i", NOW_MS - age_ms, encode_status(msgspec.structs.replace(status, **changes)))


def screen(*rows: NodeRow, width: int = 80, height: int = 24) -> list[str]:
    return draw(list(rows), NOW_MS, where="/data", width=width, height=height)


def test_a_healthy_node_has_its_head_and_a_line_a_release() -> None:
    """By release: environment, workers and spare, models, requests a second, p99, queue."""
    shown = screen(row(releases=(release(queued=3, in_flight=4), release("churn", "1.0.0"))))

    assert shown[1] == "node-1  accepting  pid 4242  up 1 min 5 s  queued 0  lag 0"
    assert shown[2].split() == ["RELEASE", "ENVIRONMENT", "WORKERS", "MODELS", "REQ/S", "P99", "MS", "QUEUE"]
    assert shown[3].split() == ["anomaly==2.0.0", "READY", "1+1", "5", "320.0", "12.3", "7"]
    assert shown[4].startswith("churn==1.0.0")


def test_what_is_unhealthy_stands_first_with_its_whole_mend() -> None:
    """A sentence about a fault is wrapped, never cut, so that its mend can be pasted."""
    sentence = "anomaly==2.0.0 is BROKEN: " + "the lock cannot be met " * 6 + "; mend: millstream logs --release anomaly==2.0.0"
    shown = screen(row(unhealthy=(sentence,), releases=(release("aaa"), release(environment="BROKEN", workers=()))))

    assert shown[0].startswith("! node-1: anomaly==2.0.0 is BROKEN")
    assert "mend: millstream logs --release anomaly==2.0.0" in " ".join(" ".join(shown).split())
    table = [line.split()[0] for line in shown if "==" in line and line[0].isalpha()]
    assert table == ["anomaly==2.0.0", "aaa==2.0.0"]


def test_the_last_error_of_a_release_stands_below_it() -> None:
    """The error has its mend, cut to the screen."""
    shown = screen(row(releases=(release(last_error="pipeline_raised: boom", last_error_mend="millstream logs"),)))

    assert shown[4] == "  last error: pipeline_raised: boom; mend: millstream logs"


def test_a_node_that_fell_silent_is_gone() -> None:
    """A row older than ten seconds says nothing of the present; without any other node that is the first line."""
    shown = screen(row("old", age_ms=12_000, releases=(release(),)))
    beside = screen(row("old", age_ms=12_000), row("new"))

    assert shown[0] == "! no node works on /data; mend: millstream up --data-dir /data"
    assert shown[-1] == "node old is gone: it said nothing for 12 s (pid 4242)"
    assert not any("anomaly" in line for line in shown)
    assert "old is gone" in beside[0]
    assert not any(line.startswith("!") for line in beside)


def test_nothing_is_larger_than_the_screen() -> None:
    """Forty releases with long names and errors, and faults, fit 80 by 24; the last line says how many more there are."""
    many = tuple(
        release(f"package-with-a-long-name-{n}", "10.20.30rc1", last_error="e" * 300, phase="download", environment="INSTALLING")
        for n in range(40)
    )
    shown = screen(row(unhealthy=("x" * 500, "y " * 200), releases=many))

    assert len(shown) == 24
    assert max(map(len, shown)) <= 80
    assert shown[-1].startswith("... ")
    assert "millstream status --json" in shown[-1]


def test_a_paused_node_and_its_runs_are_told() -> None:
    """A full queue, a start under way and runs stand in the head of the node."""
    assert "paused: its queue is full" in screen(row(paused=True))[1]
    assert "starting" in screen(row(accepting=False))[1]
    assert "runs 2+7" in screen(row(runs_running=2, runs_queued=7))[1]


def test_no_text_can_leave_its_line() -> None:
    """What pipeline code wrote into an error does not steer the terminal."""
    shown = screen(row(releases=(release(last_error="\x1b[2J\n"),), unhealthy=("\x1b[2J",)))

    assert all(line.isprintable() for line in shown)
