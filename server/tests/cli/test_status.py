"""One screen: what is wrong first, what works below it, never more than fits."""

from __future__ import annotations

import re

import msgspec
from millstream_server import app
from millstream_server.cli.health import GONE_MS, living, troubles
from millstream_server.cli.status import NO_LIMIT, draw
from millstream_server.core.status import LogStatus, NodeStatus, ReleaseStatusRow, WorkerStatus, decode_status, encode_status
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


def screen(*rows: NodeRow, width: int = 80, height: int = 24, held_by: str = "") -> list[str]:
    alive = {row.node for row in rows if NOW_MS - row.updated_ms < GONE_MS}
    return draw(list(rows), NOW_MS, alive=alive, where="/data", held_by=held_by, width=width, height=height)


def test_a_healthy_node_has_its_head_and_a_line_a_release() -> None:
    """By release: environment, workers and spare, models, requests a second, p99, queue."""
    shown = screen(row(releases=(release(queued=3, in_flight=4), release("churn", "1.0.0"))))

    assert shown[0] == "node-1  accepting  pid 4242  up 1 min 5 s  queued 0  lag 0"
    assert shown[1].split() == ["RELEASE", "ENVIRONMENT", "WORKERS", "MODELS", "REQ/S", "P99", "MS", "QUEUE"]
    assert re.split(r" {2,}", shown[2]) == ["anomaly==2.0.0", "READY", "1 + 1 spare", "5", "320.0", "12.3", "7"]
    assert shown[3].startswith("churn==1.0.0")


def test_how_far_an_environment_is_stands_whole_below_its_release() -> None:
    """On a terminal and in a pipe alike; no name is cut, whatever its length, and what has no place beside it stands below."""
    long = release("package-with-a-name-that-is-longer-than-many", environment="INSTALLING", phase="download", workers=())
    piped, shown = screen(row(releases=(long,)), width=NO_LIMIT), screen(row(releases=(long,)))

    assert piped[2].split() == ["package-with-a-name-that-is-longer-than-many==2.0.0", "INSTALLING", "0", "5", "320.0", "12.3", "0"]
    assert piped[3] == shown[-1] == "  phase: download"
    assert [line.split() for line in shown[1:5]] == [
        ["RELEASE", "ENVIRONMENT", "WORKERS"],
        ["MODELS", "REQ/S", "P99", "MS", "QUEUE"],
        ["package-with-a-name-that-is-longer-than-many==2.0.0", "INSTALLING", "0"],
        ["5", "320.0", "12.3", "0"],
    ]


def test_a_node_on_kafka_says_its_partitions_commits_and_what_went_elsewhere() -> None:
    """Two lines below its head, and a third where requests wait in other topics; a lag that the log does not say is a question mark."""
    log = LogStatus(
        True, "MkU3OEVBNTcwNTJENDM2Qg", {"ml.pipeline.input": 12, "ml.pipeline.overflow": 6}, {}, 2, 90, 1, 4.2, 11.9, 3, 1, 20, 4
    )
    shown = screen(row(lag=-1, log=log, releases=(release(in_flight=7),)))
    waiting = msgspec.structs.replace(log, lags={"ml.pipeline.input": 5, "ml.pipeline.overflow": 20, "ml.pipeline.retry.5s": 0})
    quiet = screen(row(log=msgspec.structs.replace(waiting, commit_p99_ms=0.0)))

    assert shown[0].endswith("queued 0  lag ?")
    assert shown[1] == "kafka MkU3OEVBNTcwNTJENDM2Qg  18 partitions  2 rebalances  in flight 7"
    assert shown[2] == "commit p50 4.2 ms p99 11.9 ms  retried 3  parked 1  overflowed 20  dead 4"
    assert quiet[2].startswith("no commit for 10 s  retried 3")
    assert quiet[3] == "lag of overflow 20"


def test_a_node_with_a_log_of_its_own_has_no_line_about_it() -> None:
    """Partitions and rebalances tell nothing where nobody shares them."""
    assert len(screen(row(log=LogStatus(False, "l"), releases=(release(),)))) == len(screen(row(releases=(release(),))))


def test_what_is_unhealthy_stands_first_with_its_whole_mend() -> None:
    """A sentence about a fault is wrapped, never cut, so that its mend can be pasted."""
    sentence = "anomaly==2.0.0 is BROKEN: " + "the lock cannot be met " * 6 + "; mend: millstream logs --release anomaly==2.0.0"
    shown = screen(row(unhealthy=(sentence,), releases=(release("aaa"), release(environment="BROKEN", workers=()))))

    assert shown[0].startswith("! node-1: anomaly==2.0.0 is BROKEN")
    assert "mend: millstream logs --release anomaly==2.0.0" in " ".join(" ".join(shown).split())
    table = [line.split()[0] for line in shown if "==" in line and line[0].isalpha()]
    assert table == ["anomaly==2.0.0", "aaa==2.0.0"]


def test_the_last_error_of_a_release_stands_below_it() -> None:
    """Its first line, and on a line of its own the mend: a long error is cut to the screen, and the mend stays."""
    error = "pipeline_raised: boom" + "!" * 80 + "\nTraceback (most recent call last):"
    shown = screen(row(releases=(release(last_error=error, last_error_mend="millstream logs"),)))
    piped = screen(row(releases=(release(last_error=error, last_error_mend="millstream logs"),)), width=NO_LIMIT)

    assert shown[3] == "  last error: pipeline_raised: boom" + "!" * 42 + "..."
    assert shown[4] == piped[4] == "  mend: millstream logs"
    assert piped[3] == "  last error: pipeline_raised: boom" + "!" * 80


def test_a_node_that_fell_silent_is_gone() -> None:
    """A row older than ten seconds says nothing of the present; without any other node that is the first line."""
    shown = screen(row("old", age_ms=12_000, releases=(release(),)))
    beside = screen(row("old", age_ms=12_000), row("new"))

    assert shown[0] == "! no node works on /data; mend: millstream up --data-dir /data"
    assert shown[-1] == "node old is gone: it last spoke 12 s ago (pid 4242)"
    assert not any("anomaly" in line for line in shown)
    assert "old is gone: it" in beside[0]
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
    assert "paused: its queue is full" in screen(row(paused=True))[0]
    assert "starting" in screen(row(accepting=False))[0]
    assert screen(row(runs_running=2, runs_queued=7))[0].endswith("  runs 2 + 7 queued")


def test_no_text_can_leave_its_line() -> None:
    """What pipeline code wrote into an error does not steer the terminal."""
    shown = screen(row(releases=(release(last_error="\x1b[2J\n"),), unhealthy=("\x1b[2J",)))

    assert all(line.isprintable() for line in shown)


def test_a_traceback_in_a_sentence_leaves_its_headline_and_its_mend() -> None:
    """A reason of many lines is told by its first; the step that mends it stays whole."""
    sentence = "a==2 is BROKEN: module a cannot be imported: KeyError\nTraceback:\n  x; mend: millstream logs --release a==2"
    shown = screen(row(unhealthy=(sentence,)))

    assert shown[:2] == ["! node-1: a==2 is BROKEN: module a cannot be imported: KeyError; mend:", "    millstream logs --release a==2"]
    assert not any("Traceback" in line for line in shown)


BROKEN = "anomaly==2.0.0 is BROKEN: no module tyme\nTraceback; mend: read it"


def test_a_deployment_that_was_given_up_is_a_note_while_another_release_serves() -> None:
    """Nobody is answered worse for it, so the node is well; the note says what serves and how it is cleared."""
    failed = release(environment="BROKEN", release="FAILED", workers=())
    beside = screen(row(unhealthy=(BROKEN,), releases=(failed, release(version="1.0.0"))), width=NO_LIMIT)
    alone = screen(row(unhealthy=(BROKEN,), releases=(failed, release("churn"))), width=NO_LIMIT)

    assert not any(line.startswith("!") for line in beside)
    assert beside[-1].startswith(
        "note node-1: anomaly==2.0.0 was given up: no module tyme; anomaly==1.0.0 serves on; mend: to clear this note "
    )
    assert alone[0] == "! node-1: anomaly==2.0.0 is BROKEN: no module tyme; mend: read it"


def test_a_broken_release_that_models_still_need_stays_a_fault() -> None:
    """Only a deployment that was given up is a note: a kept release answers for its models, and cannot."""
    node = decode_status(row(unhealthy=(BROKEN,), releases=(release(environment="BROKEN", release="KEPT"), release(version="3"))).status)

    assert [trouble.note for trouble in troubles(node)] == [False]


def test_a_node_that_was_killed_is_gone_at_once(ports: app.Ports) -> None:
    """The kernel gave its lock back, so its last words, however fresh, are not believed; nor those of another process than the holder."""
    rows = [row()]

    killed = living(ports, rows, NOW_MS)
    with app.Hold(ports.data_dir):
        held_by_another = living(ports, rows, NOW_MS)
        (ports.data_dir / "node.lock").write_text("pid 4242: millstream up")
        held = living(ports, rows, NOW_MS)
        silent = living(ports, [row(age_ms=12_000)], NOW_MS)

    assert (killed, held_by_another, held, silent) == (frozenset(), frozenset(), {"node-1"}, frozenset())


def test_nodes_that_share_a_store_are_judged_by_when_they_spoke(ports: app.Ports) -> None:
    """Their data directories, and locks, are on other machines."""
    shared = msgspec.structs.replace(ports.settings.shared, store="postgresql://somewhere")
    elsewhere = app.Ports(msgspec.structs.replace(ports.settings, shared=shared), create=False)

    assert living(elsewhere, [row(), row("old", age_ms=12_000)], NOW_MS) == {"node-1"}


def test_who_holds_the_data_directory_and_says_nothing_is_named() -> None:
    """A node that starts has not spoken yet, and one that hangs never does."""
    shown = screen(row(age_ms=12_000), held_by="pid 7: millstream up", width=NO_LIMIT)

    assert shown[0].startswith("! pid 7: millstream up holds /data and has said nothing yet: it starts, or hangs; mend: millstream doctor")
