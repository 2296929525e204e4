"""A package that tries to get out of its worker gets nowhere: it sees, reaches, uses and breaks only what is its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_platform import Running, wheel

from blackbox.command import Platform
from blackbox.processes import is_worker, lives, process, tree
from blackbox.stream import wait_for

pytestmark = pytest.mark.xdist_group("escape")

LIMIT_BYTES = 400 << 20
PROCESSES = 64
RECOVERED_S = 30.0
KERNEL = ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/proc/self/oom_score_adj")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`millstream up` that requires a sandbox, with a model of acme; every request that was sent got one result, from one node."""
    settings = {
        "MILLSTREAM_WORKER_SANDBOX": "required",
        "MILLSTREAM_WORKER_MAX_PROCESSES": str(PROCESSES),
        "MILLSTREAM_WORKER_MAX_FILE_BYTES": "64MiB",
        "MILLSTREAM_WORKER_TMP_BYTES": "96MiB",
        "MILLSTREAM_NODE_WORKER_MEMORY_BYTES": str(LIMIT_BYTES),
        "MILLSTREAM_NODE_MAX_ATTEMPTS": "1",
    }
    running = Running.start(tmp_path_factory.mktemp("escape") / "data", settings)
    node = running.up().pid
    for version in ("1.0.0", "2.0.0"):
        deployed = running.deploy(wheel(version, package="escape"))
        assert deployed.code == 0, deployed.err
    running.platform.run("invoke", "write_note", "--tenant", "acme", "--params", '{"text": "kept"}')
    yield running
    assert running.up().pid == node
    assert {id: count for id, count in running.counts(list(running.acks)).items() if count != 1} == {}
    assert running.close() == 0


def ask(running: Running, pipeline: str, tenant: str = "acme", **params: object) -> dict[str, object]:
    """The result of one request; afterwards an honest request is answered."""
    id = f"{pipeline}-{len(running.acks)}"
    running.send([{"id": id, "pipeline": pipeline, "tenant": tenant, "params": params}])
    result = running.answers([id])[id]
    running.send([{"id": f"{id}-after", "pipeline": "read_note", "tenant": "acme", "params": {}}])
    assert running.answers([f"{id}-after"])[f"{id}-after"].get("result") == "kept"
    return result


def refusal(result: dict[str, object]) -> str:
    """Why a request got nothing."""
    assert result["status"] in ("failed", "dead"), result
    error = result["error"]
    assert isinstance(error, dict)
    return str(error["message"])


def environments(running: Running) -> dict[str, Path]:
    """By version, its environment."""
    return {path.name.partition("+")[0]: path for path in (running.platform.data_dir / "environments").iterdir() if path.name[0] != "."}


def workers(running: Running) -> list[int]:
    """Pids of the workers that the node tells of."""
    rows = (running.up().status() or {})["releases"]
    assert isinstance(rows, list)
    return [worker["pid"] for row in rows for worker in row["workers"] if worker["state"] != "starting"]


def test_what_is_not_its_own_does_not_exist(running: Running) -> None:
    """The node's files, other releases, and what the system keeps for itself."""
    data_dir, there = running.platform.data_dir, environments(running)
    hidden = [data_dir / "signing-key", data_dir / "store.sqlite", data_dir / "log.sqlite", data_dir / "logs", data_dir / "artifacts"]
    hidden += [there["1.0.0"], Path("/etc/shadow"), Path("/etc/ssh"), Path("/var"), Path("/sys"), Path("/root/.ssh"), Path(__file__)]

    answers = {path: ask(running, "look", path=str(path)) for path in hidden}

    assert {path: refusal(answer).split(":")[0] for path, answer in answers.items()} == dict.fromkeys(hidden, "FileNotFoundError")
    assert ask(running, "look", path=str(data_dir / "environments"))["result"] == [there["2.0.0"].name]


def test_it_is_told_nothing(running: Running) -> None:
    """No setting of the node in its variables, no process but its own, no capability."""
    assert not [name for name in str(ask(running, "own", what="variables")["result"]).split() if name.startswith("MILLSTREAM")]
    assert ask(running, "own", what="processes")["result"] == "1 2"
    assert set(str(ask(running, "own", what="capabilities")["result"])) == {"0"}


@pytest.mark.parametrize("place", ["environment", "module", "/usr/bin", "/usr/bin/env", "/", "/dev", "/etc/passwd", *KERNEL])
def test_it_writes_nowhere_but_into_its_own_tmp(running: Running, place: str) -> None:
    """Not into its environment, whose code others run, nor into the system, nor what the kernel lets root's processes set."""
    path = str(ask(running, "own", what=place)["result"]) if place[0] != "/" else place

    said = refusal(ask(running, "may_write", path=path))

    assert any(why in said for why in ("Read-only file system", "Permission denied", "Operation not supported", "No such file")), said
    assert ask(running, "may_write", path="/tmp")["result"] is True


def test_it_fills_neither_disk_nor_memory_by_files(running: Running) -> None:
    """A file has a size at most, and so has its /tmp."""
    assert "File too large" in refusal(ask(running, "write", path="/tmp/large", size_bytes=80 << 20))
    said = refusal(ask(running, "write", path="/tmp/second", size_bytes=60 << 20))
    assert "No space left" in said


def test_only_a_run_reaches_the_network(running: Running) -> None:
    """By the default setting a request finds nobody at any address, this machine's own included; a run may fetch its data."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        refused = refusal(ask(running, "connect", host="127.0.0.1", port=port))
        key = str(running.platform.data_dir / "signing-key")
        params = json.dumps({"text": "kept", "host": "127.0.0.1", "port": port, "path": key})
        run = json.loads(running.platform.run("invoke", "write_note", "--tenant", "acme", "--params", params))

    assert "refused" in refused
    assert run["metrics"] == {"reached": 1.0, "readable": 0.0, "pid": 2.0}


def test_it_touches_no_process_outside(running: Running) -> None:
    """The node's pid is nobody inside, neither to end nor to trace; a namespace in which it were root is refused."""
    node = running.up().pid
    for pipeline in ("kill", "trace"):
        assert "No such process" in refusal(ask(running, pipeline, pid=node))
    assert "no user namespace" in refusal(ask(running, "unshare"))


@pytest.mark.parametrize(
    ("model", "version", "times"),
    [("note", "\u00b2", 1), ("note", "9" * 5000, 1), ("a\0.b", "1", 1), ("note", "1", 2000)],
    ids=["no number", "a long one", "no name", "too many"],
)
def test_whatever_a_run_asks_of_the_node_is_its_own_trouble(running: Running, model: str, version: str, times: int) -> None:
    """Numbers that are none, names that are none, and too many questions at once end the run; the node answers on."""
    result = ask(running, "ask_oddly", model=model, version=version, times=times)

    assert ("has no version" if times == 1 else "more than 64 things at once") in refusal(result)


def test_it_cannot_have_the_model_of_another_package_taken_for_bad(running: Running) -> None:
    """A worker tells of models that it was asked to load, and of no other; the request after it is answered with the model."""
    ask(running, "judge", model="acme.note", version=1)

    ended = running.say("logs", "--level", "warning")
    assert "it answered for a model that it was not asked to load" in ended.out


def test_a_worker_of_a_run_that_cannot_be_started_ends_its_attempt_and_no_more(running: Running) -> None:
    """Where no folder can be made for it, as on a full disk."""
    folder = running.platform.data_dir / "work" / "workers"
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.touch()
    try:
        said = refusal(ask(running, "write_note", text="kept"))
    finally:
        folder.unlink()
        aside.rename(folder)

    assert "its worker cannot be started on node-1" in said
    assert ask(running, "write_note", text="kept")["status"] == "ok"


def test_a_fork_bomb_stops_at_the_limit(running: Running) -> None:
    """Processes beyond the limit are refused to it, and those that stay end with their worker."""
    before = set(workers(running))

    started = ask(running, "fork_bomb", most=4 * PROCESSES)["result"]

    assert isinstance(started, int)
    assert started < PROCESSES
    [bombed] = [pid for pid in before if len(tree(pid)) > 1] or [0]
    left = [one.pid for one in tree(bombed)] if bombed else []
    assert len(left) == started + 1
    os.kill(bombed, signal.SIGKILL)
    wait_for(lambda: not [pid for pid in left if lives(pid)], RECOVERED_S, "its processes are gone, though each has a session of its own")


@pytest.mark.parametrize(
    ("by_children", "most_bytes", "files_bytes"),
    [(False, 4 * LIMIT_BYTES, 0), (True, 4 * LIMIT_BYTES, 0), (False, LIMIT_BYTES - (60 << 20), 60 << 20)],
    ids=["alone", "children", "files"],
)
def test_a_memory_bomb_ends_its_worker_and_is_told_so(running: Running, by_children: bool, most_bytes: int, files_bytes: int) -> None:
    """Alone, spread over processes that each take little, or half of it in files of its /tmp, which is memory."""
    result = ask(running, "memory_bomb", by_children=by_children, most_bytes=most_bytes, files_bytes=files_bytes)

    assert f"killed by the memory limit of {LIMIT_BYTES >> 20} MiB" in refusal(result)
    assert isinstance(result["error"], dict)
    assert result["error"]["code"] == "out_of_memory"


def test_it_opens_only_so_many_files(running: Running) -> None:
    """A hundred thousand are too many."""
    assert "Too many open files" in refusal(ask(running, "open_files", count=100_000))


def test_whatever_of_a_confined_worker_is_killed_it_is_replaced(running: Running) -> None:
    """The worker, or bubblewrap inside or outside of its namespace: all three go, and requests are answered on."""
    for generations in (0, 1, 2):
        ask(running, "read_note")
        [victim, *_] = workers(running)
        assert is_worker(victim)
        doomed = [victim]
        for _ in range(2):
            parent = process(doomed[-1])
            assert parent is not None
            doomed.append(parent.parent)

        killed_s = time.monotonic()
        os.kill(doomed[generations], signal.SIGKILL)

        assert ask(running, "read_note")["result"] == "kept"
        wait_for(lambda gone=doomed: not [pid for pid in gone if lives(pid)], RECOVERED_S, "all three are gone")  # type: ignore[misc]
        wait_for(lambda: bool(workers(running)), RECOVERED_S, "another worker")
        assert time.monotonic() - killed_s < RECOVERED_S


def test_status_and_doctor_say_how_workers_are_confined(running: Running) -> None:
    """By the version of bubblewrap that was tried."""
    said = running.up().status()
    assert said is not None
    assert str(said["sandbox"]).startswith("bubblewrap ")
    findings = running.platform.ask("doctor", "--json")
    assert isinstance(findings, dict)
    assert [one["state"] for one in findings["findings"] if one["check"] == "sandbox"] == ["ok"]


def test_without_bubblewrap_a_node_says_so_or_does_not_start(running: Running, tmp_path: Path) -> None:
    """With the one command that mends it."""
    path = f"{Path(running.platform.program[0]).parent}"
    bare = Platform(tmp_path / "data", settings={"PATH": path, "MILLSTREAM_WORKER_SANDBOX": "required"})
    refused = Running(bare, tmp_path / "none").say("up")
    assert (refused.code, "no-sandbox" in refused.err) == (5, True), refused
    assert "apt-get install --no-install-recommends --yes bubblewrap" in refused.err

    auto = Running.start(tmp_path / "auto", {"PATH": path})
    said = auto.say("status")
    assert "note node-1: workers have no sandbox" in said.out
    assert "apt-get install --no-install-recommends --yes bubblewrap" in " ".join(said.out.split())
    assert auto.close() == 0


def test_paths_that_hold_secrets_cannot_be_given_to_workers(tmp_path: Path) -> None:
    """Neither the data directory nor a folder around it."""
    for name in ("READABLE", "WRITABLE"):
        platform = Platform(tmp_path / "data", settings={f"MILLSTREAM_WORKER_{name}_PATHS": str(tmp_path)})
        refused = Running(platform, tmp_path / "none").say("up")
        assert f"worker.{name.lower()}_paths names {tmp_path}, which would show workers" in refused.err
