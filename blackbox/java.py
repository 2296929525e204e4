"""Kafka as Java sees it: the jars that `make kafka-jars` copied, the JVM that runs them, its flags and its archive of parsed classes."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

KAFKA_HOME = Path(__file__).resolve().parent.parent / ".kafka"
"""Where `make kafka-jars` puts everything; git ignores it."""
LIBS = KAFKA_HOME / "libs"
ARCHIVE = KAFKA_HOME / "kafka.jsa"
BLANK_METADATA = KAFKA_HOME / "bootstrap.checkpoint"
PREPARE = "make kafka-jars"


class KafkaNotPrepared(Exception):
    """Java or Kafka's jars are not here; the message ends in the command that brings them."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}; run: {PREPARE}")


@dataclass(frozen=True, slots=True)
class Profile:
    """How a broker is run.

    Attributes:
        flags: of the JVM.
        properties: of the server, on top of those that every broker of ours has.
        coordinators: whether a new broker has its topics of groups and transactions before it counts as ready. Otherwise the first
            client makes them, and the retries of its coordinator cost it 1 to 3 s.
    """

    name: str
    flags: tuple[str, ...]
    properties: dict[str, str] = field(default_factory=dict)
    coordinators: bool = False


TEST = Profile(
    "test",
    # A broker of a test lives for seconds: the first compiler alone and one collector thread start it in half of the time and memory.
    ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx512m"),
    {
        # What a broker looks after every ten seconds or five minutes a test must see now: transactions past their timeout, and retention.
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
        "log.initial.task.delay.ms": "1000",
        "log.retention.check.interval.ms": "1000",
        # A killed broker is let in again only when the session of its former life has ended: 9 s by default. Clusters say their own.
        "broker.session.timeout.ms": "4000",
        "broker.heartbeat.interval.ms": "1000",
        # 8 MiB hold the keys of a test's compacted topics; the default takes 128 MiB of every broker's heap at its start.
        "log.cleaner.dedupe.buffer.size": str(8 * 1024 * 1024),
    },
    coordinators=True,
)
"""Starts fast, and looks after transactions and retention every second."""

LOAD = Profile("load", ("-Xms1g", "-Xmx1g"))
"""The JVM's own compiler and collector, and the broker's own intervals: for benchmarks, long attacks and `make kafka`."""


def program(name: str) -> str:
    """`java` or another program of the JDK: that of JAVA_HOME, or the first on PATH.

    Raises:
        KafkaNotPrepared: there is none.
    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which(name, path=str(Path(home) / "bin")) if home else shutil.which(name)
    if found is None:
        raise KafkaNotPrepared(f"no {name} in {home}/bin, which JAVA_HOME names" if home else f"no {name} on PATH")
    return found


def class_path() -> str:
    """Every jar by its full name, in one order: the JVM takes an archive of classes for exactly the class path it was made with.

    Raises:
        KafkaNotPrepared: there are none.
    """
    jars = sorted(str(path) for path in LIBS.glob("*.jar"))
    if not jars:
        raise KafkaNotPrepared(f"no jars of Kafka in {LIBS}")
    return ":".join(jars)


def command(main: str, *arguments: str, flags: tuple[str, ...] = ()) -> list[str]:
    """The argument vector that runs a main class of the jars, with the archive of parsed classes where there is one.

    Raises:
        KafkaNotPrepared: Java or the jars are missing.
    """
    shared = (f"-XX:SharedArchiveFile={ARCHIVE}",) if ARCHIVE.exists() else ()
    return [program("java"), *flags, *shared, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", class_path(), main, *arguments]


def what_the_archive_fits() -> str:
    """JVM and class path, as one text: an archive made under another one is not taken.

    Raises:
        KafkaNotPrepared: Java or the jars are missing.
    """
    said = subprocess.run([program("java"), "-version"], capture_output=True, text=True, timeout=60, check=True)
    sizes = [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in sorted(LIBS.glob("*.jar"))]
    return "\n".join([said.stderr.strip(), class_path(), *sizes, ""])
