"""The one broker of a test run, tried by runs of their own: shared by all processes, gone with the run, never a reason to skip."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from blackbox.processes import process
from blackbox.stream import wait_for

pytestmark = pytest.mark.xdist_group("own brokers")
ROOT = Path(__file__).resolve().parents[2]
ASKING = """
import os, time, pathlib
from confluent_kafka.admin import AdminClient

HERE = pathlib.Path(__file__).parent

def tell(kafka_settings):
    pid = os.getpid()
    words = kafka_settings["bootstrap.servers"] + " " + str(len(AdminClient(kafka_settings).list_topics(timeout=5).brokers))
    (HERE / f"{pid}.partial").write_text(words)
    (HERE / f"{pid}.partial").rename(HERE / f"{pid}.told")
    while len(list(HERE.glob("*.told"))) < int(os.environ["TELLERS"]):
        time.sleep(0.05)

def test_one(kafka_settings):
    tell(kafka_settings)

def test_two(kafka_settings):
    tell(kafka_settings)
"""


def start_run(folder: Path, *arguments: str, tellers: int = 1, **environment: str | None) -> subprocess.Popen[str]:
    """A run of pytest over two tests that ask for the shared broker, and wait until `tellers` processes know it."""
    (folder / "test_asking.py").write_text(ASKING)
    own = {name: value for name, value in os.environ.items() if not name.startswith(("KAFKA_", "PYTEST_"))}
    for name, value in {"TELLERS": str(tellers), **environment}.items():
        own.pop(name, None)
        if value is not None:
            own[name] = value
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        os.devnull,
        "--rootdir",
        str(folder),
        "-p",
        "blackbox.kafka_fixtures",
        "-p",
        "no:randomly",
    ]
    argv += ["-p", "no:cacheprovider", *arguments, str(folder)]
    return subprocess.Popen(argv, cwd=ROOT, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def told(folder: Path) -> list[list[str]]:
    return [path.read_text().split() for path in folder.glob("*.told")]


def broker_pids(folder: Path) -> list[int]:
    """The brokers of a run whose TMPDIR is `folder`."""
    listed = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in listed if str(folder) in _command_line(pid) and "kafka.Kafka" in _command_line(pid)]


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""  # ended meanwhile


def test_processes_of_a_run_share_one_broker_that_ends_with_it(tmp_path: Path) -> None:
    """Two processes of xdist know the same address; after the run neither broker nor files are left."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()

    with start_run(tmp_path, "-n", "2", tellers=2, TMPDIR=str(temporary)) as run:
        output, _ = run.communicate(timeout=90)

    assert run.returncode == 0, output
    assert len(told(tmp_path)) == 2
    assert len({bootstrap for bootstrap, _ in told(tmp_path)}) == 1
    assert not broker_pids(temporary)
    assert not list(temporary.glob("millstream-kafka-*"))


def test_the_shared_broker_ends_when_the_run_is_killed(tmp_path: Path) -> None:
    """SIGKILL to the leading process leaves it no chance to tidy up; the broker's keeper sees it end."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()

    with start_run(tmp_path, tellers=2, TMPDIR=str(temporary)) as run:
        wait_for(lambda: bool(told(tmp_path)), 60, "the shared broker")
        running = broker_pids(temporary)
        run.kill()
        run.communicate(timeout=30)

    assert len(running) == 1
    wait_for(lambda: process(running[0]) is None, 10, "the end of the broker")
    wait_for(lambda: not list(temporary.iterdir()), 10, "the end of its files")


def test_a_run_takes_the_cluster_that_it_is_given(tmp_path: Path, kafka_bootstrap: str) -> None:
    """KAFKA_BOOTSTRAP and KAFKA_OPTIONS stand for somebody's own cluster: none is started."""
    options = json.dumps({"client.id": "somebody", "security.protocol": "PLAINTEXT"})

    with start_run(tmp_path, KAFKA_BOOTSTRAP=kafka_bootstrap, KAFKA_OPTIONS=options, TMPDIR=str(tmp_path)) as run:
        output, _ = run.communicate(timeout=60)

    assert run.returncode == 0, output
    assert [bootstrap for bootstrap, _ in told(tmp_path)] == [kafka_bootstrap]
    assert AdminClient({"bootstrap.servers": kafka_bootstrap}).list_topics(timeout=10).brokers  # it is not ours to end


def test_without_java_tests_fail_and_none_is_skipped(tmp_path: Path) -> None:
    """What a machine lacks is said, with the command that brings it."""
    with start_run(tmp_path, PATH=str(tmp_path), JAVA_HOME=None) as run:
        output, _ = run.communicate(timeout=60)

    assert run.returncode == 1
    assert "no java on PATH; run: make kafka-jars" in output
    assert "2 errors" in output
    assert "skipped" not in output


def test_with_its_port_blocked_tests_fail(tmp_path: Path) -> None:
    """A cluster that does not answer is a failure, not a reason to pass by."""
    with start_run(tmp_path, KAFKA_BOOTSTRAP="127.0.0.1:1", KAFKA_OPTIONS='{"log_level": 0}', TMPDIR=str(tmp_path)) as run:
        output, _ = run.communicate(timeout=90)

    assert run.returncode == 1
    assert "2 failed" in output


def test_with_its_port_blocked_the_contract_of_the_log_fails_too() -> None:
    """Though its tests start brokers of their own: a run that was given a cluster says of none of them that it passed."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("KAFKA_", "PYTEST_"))}
    argv = [sys.executable, "-m", "pytest", "-p", "no:randomly", "-q", "tests/contract/log/test_log_records.py", "-k", "kafka and large"]

    done = subprocess.run(
        argv, cwd=ROOT, env=own | {"KAFKA_BOOTSTRAP": "127.0.0.1:1"}, capture_output=True, text=True, timeout=90, check=False
    )

    assert done.returncode == 1
    assert "2 errors" in done.stdout, done.stdout[-2000:]
    assert "passed" not in done.stdout
    assert "skipped" not in done.stdout
