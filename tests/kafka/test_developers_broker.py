"""What `make kafka`, `kafka-stop` and `kafka-clean` do, and what is said where Java is missing."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from plain_client import Settings, append, make_topic, read

from blackbox.ports import free_ports

pytestmark = pytest.mark.xdist_group("own brokers")
ROOT = Path(__file__).resolve().parents[2]
REQUIRE_JAVA = ROOT / "deploy/kafka/require-java"


class Developer:
    """Runs the commands of the make targets on a port and a folder of the test."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.port = free_ports(1)[0]
        self.settings: Settings = {"bootstrap.servers": f"127.0.0.1:{self.port}"}

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "blackbox.kafka_dev", command, "--data", str(self.data), "--port", str(self.port)]
        return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def developer(tmp_path: Path) -> Iterator[Developer]:
    """A developer whose broker ends with the test."""
    developer = Developer(tmp_path / "data")
    yield developer
    developer.run("stop")


def test_a_developers_broker_outlives_its_command_and_keeps_its_data(developer: Developer) -> None:
    """It says its address, says so again when asked to start twice, and has every record after a stop and a start."""
    started = developer.run("start")
    make_topic(developer.settings, "kept")
    append(developer.settings, "kept", ["one"])
    again = developer.run("start")
    stopped = developer.run("stop")
    back = developer.run("start")

    assert started.returncode == 0, started.stderr
    assert f"export MILLSTREAM_KAFKA_BOOTSTRAP=127.0.0.1:{developer.port}" in started.stdout
    assert "runs already" in again.stdout
    assert f"127.0.0.1:{developer.port}" in again.stdout
    assert f"its data stay in {developer.data}" in stopped.stdout
    assert back.returncode == 0, back.stderr
    assert read(developer.settings, "kept", 1) == ["one"]


def test_data_are_removed_by_their_own_command_alone(developer: Developer) -> None:
    """And not under a broker that runs."""
    developer.run("start")
    refused = developer.run("clean")
    developer.run("stop")
    cleaned = developer.run("clean")
    stopped = developer.run("stop")

    assert refused.returncode == 1
    assert "run: make kafka-stop" in refused.stderr
    assert f"removing every topic of {developer.data}" in cleaned.stdout
    assert not developer.data.exists()
    assert (stopped.returncode, stopped.stdout) == (0, f"no Kafka of {developer.data} runs\n")


def test_a_taken_port_is_said_with_one_that_is_free(developer: Developer) -> None:
    """Rather than a stack of Java's."""
    with socket.create_server(("127.0.0.1", developer.port)):
        refused = developer.run("start")

    assert refused.returncode == 1
    assert f"port {developer.port} is taken by another program; run: make kafka PORT=" in refused.stderr


JDK = dict.fromkeys(("java", "javac", "mvn"), "echo 'openjdk version \"17.0.15\" 2025-04-15' >&2")
"""Programs that `java -version` is asked of, as far as the script looks at them."""


def require_java(folder: Path, programs: dict[str, str], user_id: int = 0) -> subprocess.CompletedProcess[str]:
    """The script as seen by some user on a PATH with these programs alone, each a line of shell."""
    for name in ("sed", "head", "cp"):
        (folder / name).symlink_to(shutil.which(name) or name)
    for name, line in {"id": f"echo {user_id}", **programs}.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    return subprocess.run(
        ["/bin/sh", str(REQUIRE_JAVA)], env={"PATH": str(folder)}, capture_output=True, text=True, timeout=60, check=False
    )


def test_java_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    """Nothing is said, nothing installed."""
    done = require_java(tmp_path, JDK)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(("version", "number"), [("1.8.0_392", 1), ("11.0.2", 11)])
def test_java_that_is_too_old_is_said(tmp_path: Path, version: str, number: int) -> None:
    """Kafka 4 does not start on it."""
    done = require_java(tmp_path, {**JDK, "java": f"echo 'openjdk version \"{version}\" 2019-01-15' >&2"})

    assert done.returncode == 1
    assert f"Java is {number}, and Kafka needs 17 or newer" in done.stderr


def test_without_apt_it_is_said_what_to_install(tmp_path: Path) -> None:
    """And that is no success."""
    done = require_java(tmp_path, {})

    assert done.returncode == 1
    assert "no java on PATH; install a JDK of version 17 or newer and Maven" in done.stderr


def test_who_may_not_install_reads_the_command(tmp_path: Path) -> None:
    """With apt, but not as root: nothing is tried."""
    done = require_java(tmp_path, {"apt-get": "echo tried", "java": JDK["java"], "javac": JDK["javac"]}, user_id=1000)

    assert done.returncode == 1
    assert done.stderr == "no mvn on PATH; run: sudo apt-get install -y default-jdk-headless maven\n"
    assert done.stdout == ""


def test_root_with_apt_gets_java_installed(tmp_path: Path) -> None:
    """The package list is read anew first; what apt then brought is looked at again."""
    brought = tmp_path / "brought"
    brought.write_text(f"#!/bin/sh\n{JDK['java']}\n")
    brought.chmod(0o755)
    apt = f'echo "$@" >> {tmp_path}/asked; [ "$1" = update ] || for name in java javac mvn; do cp {brought} {tmp_path}/$name; done'

    done = require_java(tmp_path, {"apt-get": apt})

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "asked").read_text().splitlines() == [
        "update -qq",
        "install -y -qq --no-install-recommends default-jdk-headless maven",
    ]
