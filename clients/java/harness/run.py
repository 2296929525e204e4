"""`python -m clients.java.harness.run [MAVEN-ARGUMENT...]`: every test of the Java client (make test-java).

With KAFKA_BOOTSTRAP, and KAFKA_OPTIONS as of librdkafka, the node and the clients work on that cluster; the broker that one test
restarts is always one of its own.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from millstream_server.core.partitioner import partition_of

from blackbox.command import Platform, child_environment
from blackbox.java import KafkaNotPrepared
from blackbox.kafka import Broker
from clients.java.harness.desk import open_desk
from docs.run_blocks import blocks_of

JAVA = Path(__file__).resolve().parent.parent
ROOT = JAVA.parent.parent
KEYS = 1000
PARTITIONS = 12


def main() -> int:
    """Maven's exit code, or 1 where the tests could not be set up or a page shows other Java than the example has."""
    with tempfile.TemporaryDirectory(prefix="millstream-java-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        try:
            _compare_pages()
            with _cluster(folder / "kafka") as bootstrap, open_desk(folder / "own-kafka") as desk:
                platform = _platform(folder, bootstrap)
                _deploy(platform, folder)
                told = _tell(folder, platform, bootstrap, desk)
                code = _maven("verify", "--activate-profiles", "harness", *sys.argv[1:], f"-Dmillstream.harness={told}")
                return code or _example(platform, folder, bootstrap)
        except (KafkaNotPrepared, PageDiffers) as error:
            sys.stderr.write(f"{error}\n")
            return 1


class PageDiffers(Exception):
    """A page shows Java that the example, which is run, does not have."""


def _compare_pages() -> None:
    """Every Java block of the pages stands in the example, line by line; only its indentation may differ.

    Raises:
        PageDiffers: one does not.
    """
    sources = ["\n".join(_stripped(path.read_text())) for path in sorted((JAVA / "example" / "src").rglob("*.java"))]
    for page in (JAVA / "README.md", ROOT / "docs" / "how-to" / "call-from-java.md"):
        for block in blocks_of(page.read_text()):
            shown = "\n".join(_stripped(block.text))
            if block.language == "java" and not any(shown in source for source in sources):
                raise PageDiffers(f"{page.name}:{block.line}: this Java does not stand in clients/java/example")


def _stripped(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


@contextmanager
def _cluster(folder: Path) -> Iterator[str]:
    named = os.environ.get("KAFKA_BOOTSTRAP")
    if named:
        yield named
    else:
        with Broker(folder) as broker:
            yield broker.bootstrap


def _options() -> dict[str, str]:
    options: dict[str, str] = json.loads(os.environ.get("KAFKA_OPTIONS") or "{}")
    return options


def _platform(folder: Path, bootstrap: str) -> Platform:
    settings = {"MILLSTREAM_KAFKA_BOOTSTRAP": bootstrap, "MILLSTREAM_KAFKA_OPTIONS": json.dumps(_options())}
    return Platform(folder / "data", settings=settings)


def _deploy(platform: Platform, folder: Path) -> None:
    """Make the data directory and bring the packages on it; the node that does so ends."""
    packages = folder / "packages"
    packages.mkdir()
    node = platform.start_node("up", "--name", "deployer", log=folder / "deployer.log")
    try:
        node.wait_accepting()
        subprocess.run(platform.argv(["init", "sensors"]), cwd=packages, env=platform.environment(), check=True, stdout=subprocess.PIPE)
        for source, release in ((packages / "sensors", "sensors==0.1.0"), (JAVA / "harness" / "package", "javatest==1.0.0")):
            wheel = platform.run("build", str(source), "--out", str(packages)).split()[-1]
            platform.run("publish", wheel)
            platform.run("deploy", release)
    finally:
        node.stop()


def _tell(folder: Path, platform: Platform, bootstrap: str, desk: int) -> Path:
    """Write down what the tests must know, in a file whose name Maven is given."""
    told = folder / "harness.json"
    found = {
        "bootstrap": bootstrap,
        "kafka": _java_settings(_options()),
        "command": list(platform.program),
        "data_dir": str(platform.data_dir),
        "desk": desk,
        "node_environment": {"MILLSTREAM_KAFKA_OPTIONS": platform.settings["MILLSTREAM_KAFKA_OPTIONS"]},
        "partitions": PARTITIONS,
        "partition_of": {key: partition_of(key.encode(), PARTITIONS) for key in _keys()},
    }
    told.write_text(json.dumps(found))
    return told


def _keys() -> list[str]:
    """Keys of every length up to 40 bytes, so that every tail of the hash is met, and some that are not ASCII."""
    chosen = random.Random(12)  # noqa: S311 the same keys in every run
    alphabet = "abcdefghijklmnopqrstuvwxyz0123456789-_.äß€😀"
    return ["".join(chosen.choices(alphabet, k=1 + number % 40)) for number in range(KEYS)]


def _java_settings(options: Mapping[str, str]) -> dict[str, str]:
    """The settings of Kafka's Java clients that mean what these of librdkafka mean.

    Raises:
        KeyError: one that has no such spelling here.
    """
    same = {"security.protocol": "security.protocol", "sasl.mechanism": "sasl.mechanism", "sasl.mechanisms": "sasl.mechanism"}
    settings = {same[name]: value for name, value in options.items() if name in same}
    if "sasl.username" in options:
        module = "plain.PlainLoginModule" if settings["sasl.mechanism"] == "PLAIN" else "scram.ScramLoginModule"
        secret = f'username="{options["sasl.username"]}" password="{options["sasl.password"]}"'
        settings["sasl.jaas.config"] = f"org.apache.kafka.common.security.{module} required {secret};"
    if "ssl.ca.location" in options:
        settings |= {"ssl.truststore.type": "PEM", "ssl.truststore.location": options["ssl.ca.location"]}
    understood = {*same, "sasl.username", "sasl.password", "ssl.ca.location"}
    if unknown := sorted(set(options) - understood):
        raise KeyError(f"KAFKA_OPTIONS for the Java tests may hold {sorted(understood)}, not {unknown}")
    return settings


def _example(platform: Platform, folder: Path, bootstrap: str) -> int:
    """Run the example as its page says, beside a node: it must print what the sensors package answers."""
    properties = folder / "example.properties"
    given = {"bootstrap.servers": bootstrap, "millstream.client": "example", **_java_settings(_options())}
    properties.write_text("".join(f"{name}={value}\n" for name, value in given.items()))
    node = platform.start_node("node", "--name", "example-node", log=folder / "example-node.log")
    try:
        node.wait_accepting()
        command = ["mvn", "-q", "-B", "compile", "exec:java", f"-Dexec.args={properties}"]
        done = subprocess.run(command, cwd=JAVA, capture_output=True, text=True, timeout=300, check=False)
    finally:
        node.stop()
    sys.stdout.write(done.stdout + done.stderr)
    wanted = ("acme.sensors version ", "unusual=true", "by node example-node", "bad_parameters at $.reading.value", "the listener was told")
    missing = [words for words in wanted if words not in done.stdout]
    if done.returncode == 0 and not missing:
        return 0
    sys.stderr.write(f"the example ended with exit code {done.returncode}; it should have printed {missing}\n")
    return 1


def _maven(*arguments: str) -> int:
    command = ["mvn", "-B", "--no-transfer-progress", *arguments]
    return subprocess.run(command, cwd=JAVA, env=child_environment(), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
