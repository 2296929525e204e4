"""What the make targets do: `python -m blackbox.kafka_dev prepare|start|stop|clean`.

`prepare` makes, from the jars, what every broker starts from: the metadata of a blank cluster and the archive of parsed classes.
The others keep one broker for a developer, which lives on when make ends.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from blackbox import java
from blackbox.kafka import LOAD, TEST, Broker, BrokerFailed, Ports
from blackbox.ports import free, free_ports
from blackbox.processes import command_line, process

DATA = java.KAFKA_HOME / "data"
PORT = 9092


def main() -> int:
    """Run one command; 1 where it failed, with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="python -m blackbox.kafka_dev", description=__doc__)
    parser.add_argument("command", choices=["prepare", "start", "stop", "clean"])
    parser.add_argument("--port", type=int, default=PORT, help="for clients; two free ones are taken besides")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the broker")
    given = parser.parse_args()
    try:
        match given.command:
            case "prepare":
                prepare()
            case "start":
                start(given.data.resolve(), given.port)
            case "stop":
                stop(given.data.resolve())
            case _:
                clean(given.data.resolve())
    except (java.KafkaNotPrepared, BrokerFailed) as failed:
        sys.stderr.write(f"{failed}\n")
        return 1
    return 0


def prepare() -> None:
    """Make the blank metadata and the archive of classes, unless both fit this JVM and these jars already.

    Raises:
        KafkaNotPrepared: Java or the jars are missing.
        BrokerFailed: the broker whose classes are to be kept did not start.
    """
    fits = java.ARCHIVE.with_suffix(".fits")
    wanted = java.what_the_archive_fits()
    if java.ARCHIVE.exists() and java.BLANK_METADATA.exists() and fits.exists() and fits.read_text() == wanted:
        return
    for old in (fits, java.ARCHIVE, java.BLANK_METADATA):
        old.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="millstream-kafka-") as folder:
        _make_blank_metadata(Path(folder))
        _make_archive(Path(folder))
    fits.write_text(wanted)


def _make_blank_metadata(folder: Path) -> None:
    settings = folder / "format.properties"
    settings.write_text(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:9093\ncontroller.listener.names=CONTROLLER\n"
        "listeners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093\n"
        f"listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\nlog.dirs={folder / 'formatted'}\n"
    )
    # The id is any: each broker of ours writes its own beside its copy of the metadata.
    argv = java.command("kafka.tools.StorageTool", "format", "-t", "A" * 22, "-c", str(settings), flags=TEST.flags)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        raise BrokerFailed(f"the format of a blank cluster ended with exit code {done.returncode}\n{done.stdout}{done.stderr}")
    shutil.copyfile(folder / "formatted" / "bootstrap.checkpoint", java.BLANK_METADATA)


def _make_archive(folder: Path) -> None:
    # Written under a name of its own: an archive that is not whole is never seen, and two that make it do not meet.
    made = java.KAFKA_HOME / f"kafka.{os.getpid()}.jsa"
    dumping = java.Profile("archive", (*TEST.flags, f"-XX:ArchiveClassesAtExit={made}"), TEST.properties)
    broker = Broker(folder / "broker", profile=dumping)
    try:
        broker.start()
        broker.stop(timeout_s=120)
        if not made.exists():
            raise BrokerFailed(f"the JVM wrote no archive of classes\n{broker.words()}")
        os.replace(made, java.ARCHIVE)
    finally:
        broker.kill()
        made.unlink(missing_ok=True)


def start(data: Path, port: int) -> None:
    """Start the developer's broker, or say that it runs.

    Raises:
        KafkaNotPrepared: Java or the jars are missing.
        BrokerFailed: it did not start.
    """
    running = _running(data)
    if running is not None:
        _tell(f"Kafka runs already, pid {running['pid']}\n{_how_to_use(str(running['bootstrap']))}")
        return
    if not free(port):
        raise BrokerFailed(f"port {port} is taken by another program; run: make kafka PORT={free_ports(1)[0]}")
    broker = Broker(data, profile=LOAD, ports=Ports(port, *free_ports(2)), outlives_caller=True)
    took_s = broker.start()
    said = {"pid": broker.pid, "bootstrap": broker.bootstrap}
    (data / "running.json").write_text(json.dumps(said))
    _tell(f"Kafka answers after {took_s:.1f} s, pid {broker.pid}; data and log in {data}\n{_how_to_use(broker.bootstrap)}")


def stop(data: Path) -> None:
    """Stop the developer's broker and keep its data."""
    running = _running(data)
    if running is None:
        _tell(f"no Kafka of {data} runs")
        return
    pid = int(str(running["pid"]))
    _tell(f"stopping Kafka, pid {pid}; its data stay in {data} (make kafka-clean removes them)")
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 60
    while (seen := process(pid)) is not None and seen.state != "Z":  # one that has ended may wait for its parent to notice
        if time.monotonic() > deadline:
            raise BrokerFailed(f"Kafka, pid {pid}, did not end within 60 s of SIGTERM; run: kill -9 {pid}")
        time.sleep(0.05)


def clean(data: Path) -> None:
    """Remove the data of the developer's broker, which must not run."""
    if _running(data) is not None:
        raise BrokerFailed(f"Kafka runs on {data}; run: make kafka-stop")
    _tell(f"removing every topic of {data}" if data.exists() else f"nothing to remove: there is no {data}")
    shutil.rmtree(data, ignore_errors=True)


def _running(data: Path) -> dict[str, object] | None:
    """What `start` wrote of a broker that still runs."""
    try:
        said: dict[str, object] = json.loads((data / "running.json").read_text())
    except FileNotFoundError:
        return None
    # The pid may be somebody else's by now.
    return said if str(data / "server.properties") in command_line(int(str(said["pid"]))) else None


def _tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _how_to_use(bootstrap: str) -> str:
    return f"use it: export MILLSTREAM_KAFKA_BOOTSTRAP={bootstrap} KAFKA_BOOTSTRAP={bootstrap}\nend it: make kafka-stop"


if __name__ == "__main__":
    sys.exit(main())
