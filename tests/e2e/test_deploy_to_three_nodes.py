"""One deployment, three nodes on a broker and a shared store, of which one cannot: the old release serves on everywhere, and who cannot
is told with the reason and the mend. All the time requests are answered, none of which may fail.

Node `b` keeps its data directory on a small disk of its own, node `c` gets what is not on the release index from an index of its own.
"""

from __future__ import annotations

import contextlib
import http.server
import os
import subprocess
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from running_platform import Request, Running, Said, statuses, wheel

from blackbox import processes
from blackbox.command import Node, Platform
from blackbox.kafka import Broker
from blackbox.ports import free_ports
from blackbox.postgres import Postgres
from blackbox.stream import wait_for

pytestmark = [pytest.mark.timeout(400), pytest.mark.xdist_group("nodes on a broker of their own")]

DISK = "48m"
PATIENT_S = 180.0
"""Environments are made at idle priority: on a machine whose cores are all busy they take many times as long."""
IMPORT = "import millstream as ms\n"
SLOW_PROBE = (IMPORT, IMPORT + "import sys\nif '--probe' in sys.argv and 'environments' in __file__:\n    time.sleep(6)\n")
TENANTS = 12


class Stream:
    """Callers of many tenants, so of all partitions and nodes, who ask one after the other until they are stopped."""

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
        name = f"{time.time_ns()}"
        while not self._stop.is_set():
            number = len(self.ids)
            sent: list[Request | bytes] = [
                {"id": f"{name}-{number + n}", "pipeline": "length", "tenant": f"t{n}", "params": {"text": "four"}} for n in range(TENANTS)
            ]
            self._running.send(sent)
            self.ids += [str(one["id"]) for one in sent if isinstance(one, dict)]
            time.sleep(0.1)

    def answers(self) -> list[dict[str, object]]:
        """One answer each, all of them good."""
        answers = self._running.answers(self.ids, PATIENT_S)
        bad = [answer for answer in answers.values() if (answer["status"], answer["result"]) != ("ok", 4)]
        assert bad == []
        return list(answers.values())


@dataclass
class Three:
    """Nodes a, b and c; `running` sends and sees results through the first one's data directory."""

    running: Running
    folder: Path
    postgres: Postgres
    store: str
    platforms: dict[str, Platform]
    index_port: int
    nodes: dict[str, Node] = field(default_factory=dict)

    def start(self, name: str) -> None:
        """Start a node that was killed, and wait until it accepts requests."""
        self.nodes[name] = self.platforms[name].start_node("node", "--name", name, log=self.folder / f"{name}.txt")
        if name == "a":
            self.running.node = self.nodes[name]
        self.nodes[name].wait_accepting()

    def publish(self, version: str, *changes: tuple[str, str], index_arguments: str = "") -> str:
        """Build and publish a version of the package; its name."""
        self.running.platform.run("publish", str(wheel(version, *changes, index_arguments=index_arguments)))
        return f"weigh=={version}"

    def current(self) -> str:
        return next(version for version, status in statuses(self.running).items() if status == "CURRENT")

    def said_by(self, name: str, version: str) -> dict[str, object]:
        """What a node says of a release; empty where it has none of it."""
        listed = self.running.platform.ask("status", "--json")
        assert isinstance(listed, dict)
        rows = [row for node in listed["nodes"] if node["node"] == name for row in node["releases"]]
        return next((row for row in rows if row["version"] == version), {})

    def wait_for_probe(self, name: str) -> None:
        """Wait until a node imports a release that it installs."""
        node = self.nodes[name].pid
        wait_for(lambda: any("--probe" in processes.command_line(one.pid) for one in processes.tree(node)), PATIENT_S, f"{name} imports")

    def on_disk(self, name: str) -> set[str]:
        """Versions that have an environment in a node's data directory, also unfinished ones (`.tmp`)."""
        names = [path.name for path in (self.platforms[name].data_dir / "environments").iterdir()]
        return {name.partition("-" if name.startswith(".tmp") else "+")[0] for name in names}

    def controller(self) -> str:
        """The node that holds the lease `controller`."""
        rows = self.postgres.execute("SELECT owner FROM lease WHERE name = 'controller'", self.store)
        return str(rows[0][0])


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", folder], check=False).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    """Three nodes with `weigh` 1.0.0 on each."""
    folder = tmp_path_factory.mktemp("three")
    with small_disk(folder / "b"), Postgres() as postgres, Broker(folder / "kafka") as broker:
        url = postgres.create_database()
        settings = {
            "MILLSTREAM_KAFKA_BOOTSTRAP": broker.bootstrap,
            "MILLSTREAM_SHARED_STORE": url,
            **{f"MILLSTREAM_SHARED_{name.upper()}": str(folder / name) for name in ("artifacts", "index", "signing_key")},
        }
        (port,) = free_ports(1)
        counterweight(folder / "packages")
        here = {"MILLSTREAM_INDEX_ARGUMENTS": f"--find-links {folder / 'packages' / 'counterweight'}"}
        away = {"MILLSTREAM_INDEX_ARGUMENTS": f"--extra-index-url http://127.0.0.1:{port}/"}
        platforms = {name: Platform(folder / name / "data", settings=settings | own) for name, own in (("b", here), ("c", away))}
        running = Running.start(folder / "a", settings | here | {"MILLSTREAM_NODE_NAME": "a"})
        three = Three(running, folder, postgres, url.rpartition("/")[2].partition("?")[0], {"a": running.platform, **platforms}, port)
        try:
            assert running.node is not None
            three.nodes["a"] = running.node
            (folder / "c").mkdir()
            for name in "bc":
                three.nodes[name] = platforms[name].start_node("up", "--name", name, log=folder / f"{name}.txt")
            for name in "bc":
                three.nodes[name].wait_accepting()
            said = running.deploy(wheel("1.0.0"))
            assert said.code == 0, said.err
            yield three
        finally:
            running.close()
            for node in three.nodes.values():
                node.stop()


def check_refused_by(name: str, said: Said, release: str) -> str:
    """The deployment was given up because of one node alone, which is named; the error's last part, its mend."""
    assert said.code == 4, said.err
    (broken,) = [line for line in said.err.splitlines() if line.split()[:1] == ["BROKEN"]]
    assert f" on {name}: " in broken
    assert f"{release} was given up: " in said.err
    assert f"(on {name})" in said.err
    mend = said.err.rpartition("mend: ")[2]
    assert f"millstream deploy {release}" in mend
    return mend


def test_a_node_without_space_holds_a_deployment_up_and_nobody_else(three: Three) -> None:
    """No half of an environment is left on the full disk; with space the same deployment succeeds on all three."""
    before, release = three.current(), three.publish("2.0.0")
    filler = three.folder / "b" / "filler"
    wait_for(lambda: len(three.on_disk("b") - {".tmp"}) <= 2, PATIENT_S, "b has given back all but the current and the previous one")
    with Stream(three.running) as stream:
        fill(filler)
        refused = three.running.say("deploy", release)
        between = {name: three.current() for name in "abc"}
        mend = check_refused_by("b", refused, release)
        wait_for(lambda: not three.on_disk("b") & {"2.0.0", ".tmp"}, PATIENT_S, "nothing of it is left on the full disk")
    answers = stream.answers()
    filler.unlink()
    with Stream(three.running) as after:
        deployed = three.running.say("deploy", release)

    assert "no space is left" in refused.err.lower() or "No space left" in refused.err
    assert mend.startswith("free space on the disk of ")
    assert set(between.values()) == {before}
    assert {answer["release"] for answer in answers} == {f"weigh=={before}"}
    assert {answer["node"] for answer in answers} == {"a", "b", "c"}
    assert deployed.code == 0, deployed.err
    assert sorted(line.split()[4] for line in deployed.err.splitlines() if line.split()[:1] == ["READY"]) == ["a", "b", "c"]
    after.answers()
    assert {three.said_by(name, "2.0.0")["release"] for name in "abc"} == {"CURRENT"}


def fill(path: Path) -> None:
    """Leave so little space beside a new file that an environment begins to be made and cannot be finished."""
    said = os.statvfs(path.parent)
    path.write_bytes(b"\0" * (said.f_bavail * said.f_frsize - 400_000))


def test_a_node_whose_index_is_away_holds_a_deployment_up_until_it_is_back(three: Three) -> None:
    """The two others have found what the lock names; the third says what it could not reach."""
    before = three.current()
    depends = ("dependencies = []", 'dependencies = ["counterweight==1.0"]')
    release = three.publish("3.0.0", depends, index_arguments=f"--find-links {three.folder / 'packages' / 'counterweight'}")
    with Stream(three.running) as stream:
        refused = three.running.say("deploy", release)
        after_refusal = three.current()
    answers = stream.answers()
    with served(three.folder / "packages", three.index_port), Stream(three.running) as after:
        deployed = three.running.say("deploy", release)

    mend = check_refused_by("c", refused, release)
    assert mend.startswith("see that the package index can be reached")
    assert f"127.0.0.1:{three.index_port}" in refused.err
    assert after_refusal == before
    assert {answer["release"] for answer in answers} == {f"weigh=={before}"}
    assert {answer["node"] for answer in answers} == {"a", "b", "c"}
    assert deployed.code == 0, deployed.err
    after.answers()


def test_a_node_that_is_killed_amid_a_deployment_holds_nothing_up_and_catches_up(three: Three) -> None:
    """It was the one that decides, and was just importing; another decides for those who live, and it makes its environment when it is
    back, in place of the half one that it left."""
    release = three.publish("4.0.0", SLOW_PROBE)
    with Stream(three.running) as stream:
        assert three.running.say("deploy", release, "--no-wait").code == 0
        victim = three.controller()
        three.wait_for_probe(victim)
        three.nodes[victim].kill()
        half_made = three.on_disk(victim)

        followed = three.running.say("deploy", release)

    answers = stream.answers()
    assert ".tmp" in half_made
    assert followed.code == 0, followed.err
    assert three.current() == "4.0.0"
    assert {answer["node"] for answer in answers if answer["release"] == release} == {"a", "b", "c"} - {victim}
    three.start(victim)
    assert three.said_by(victim, "4.0.0")["environment"] == "READY"
    assert ".tmp" not in three.on_disk(victim)


def test_a_node_that_only_trains_keeps_the_current_release_alone(three: Three) -> None:
    """A fourth node, of another role, is waited for as the others are; those that answer requests keep the previous one too."""
    before, release = three.current(), three.publish("5.0.0")
    three.platforms["d"] = Platform(three.folder / "d", settings=three.platforms["a"].settings)
    node = three.platforms["d"].start_node("up", "--name", "d", "--role", "training", log=three.folder / "d.txt")
    try:
        node.wait_accepting()
        assert three.on_disk("d") == {before}

        deployed = three.running.say("deploy", release)

        assert deployed.code == 0, deployed.err
        assert three.said_by("d", "5.0.0")["environment"] == "READY"
        wait_for(lambda: three.on_disk("d") == {"5.0.0"}, PATIENT_S, "the node that trains gives back all but the current one")
        assert {before, "5.0.0"} <= three.on_disk("a")
    finally:
        node.stop()


def counterweight(folder: Path) -> None:
    """A wheel of nothing, in the folder of its name: an index as PEP 503 has it, once it is served."""
    info = "counterweight-1.0.dist-info"
    (folder / "counterweight").mkdir(parents=True)
    with zipfile.ZipFile(folder / "counterweight" / "counterweight-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("counterweight.py", "")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: counterweight\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"counterweight.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Standard error is pytest's."""


@contextlib.contextmanager
def served(folder: Path, port: int) -> Iterator[None]:
    """A folder as a package index, while the context lasts."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
