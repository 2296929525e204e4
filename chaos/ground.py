"""The ground on which attacks happen: a data directory with two deployed releases and a model for each tenant."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from blackbox.command import UNCONFINED, Node, Platform
from blackbox.stream import Acknowledged, Appending, record_value
from chaos.judge import Acked, Result
from chaos.plan import Send, lines, training

INPUT, OUTPUT = "ml.pipeline.input", "ml.pipeline.output"
PACKAGES = Path(__file__).parent / "packages"
PACKAGE = "chaos-lines"
RELEASES = ("1.0.0", "2.0.0")
TRAINING_TIMEOUT_S = 120.0


class Ground:
    """One data directory; `prepare` makes it ready for any number of attacks, one after the other."""

    def __init__(self, data_dir: Path) -> None:
        self.platform = Platform(data_dir)
        self.log = data_dir.with_suffix(".up.txt")

    def start_node(self, program: tuple[str, ...] = (), settings: dict[str, str] | None = None) -> Node:
        """Start `up`; `program` stands for the shipped command where a planted fault is wanted."""
        platform = Platform(self.platform.data_dir, program or self.platform.program, UNCONFINED | (settings or {}))
        node = platform.start_node("up", "--data-dir", str(self.platform.data_dir), log=self.log)
        return Node(self.platform, node.process, node.log)

    def prepare(self, say: Callable[[str], None] = lambda words: None) -> None:
        """Build, publish and deploy both releases, and train every tenant under its own; the node is stopped at the end."""
        node = self.start_node()
        try:
            node.wait_accepting()
            with ThreadPoolExecutor(2) as both:
                list(both.map(self._publish, RELEASES))
            say(f"built and published {PACKAGE} {' and '.join(RELEASES)}")
            for number, version in enumerate(RELEASES, 1):
                self.platform.run("deploy", f"{PACKAGE}=={version}")
                tenants = [line for line in lines() if line.release == number]
                self._train([training(f"prepare-{line.tenant}", line) for line in tenants])
                say(f"deployed {version} and trained {len(tenants)} tenants under it")
        finally:
            node.stop()

    def _publish(self, version: str) -> None:
        folder = str(PACKAGES / f"release-{version}")
        self.platform.run("build", folder)
        self.platform.run("publish", folder)

    def _train(self, sends: list[Send]) -> None:
        """Ask for trainings, all at once, and wait for their answers.

        Raises:
            CommandFailed: one did not succeed.
        """
        with ThreadPoolExecutor(len(sends)) as all_at_once:
            list(all_at_once.map(self._train_one, sends))

    def _train_one(self, send: Send) -> None:
        value = json.loads(send.line)["value"]
        params = json.dumps(value["params"])
        self.platform.run("invoke", value["pipeline"], "--tenant", value["tenant"], "--params", params, timeout_s=TRAINING_TIMEOUT_S)

    def appending(self, on_ack: Callable[[str, Acked], None]) -> Appending:
        """Append to the input topic; `on_ack` is told the id of each acknowledged request."""

        def note(tag: object, where: Acknowledged) -> None:
            on_ack(str(tag), Acked((where.topic, where.partition, where.offset), where.acked_ms))

        return Appending(self.platform, INPUT, note)

    def results(self, prefix: str) -> list[Result]:
        """Every record of the output topic whose id begins with a prefix."""
        found = []
        for record in self.platform.records(OUTPUT):
            result = result_of(record)
            if result.id.startswith(prefix):
                found.append(result)
        return found

    def runs(self) -> dict[str, dict[str, object]]:
        """Every run by its id."""
        listed = self.platform.ask("runs", "list", "--json", "--limit", "1000")
        assert isinstance(listed, list)
        return {str(row["run"]): row for row in listed}


def result_of(record: dict[str, object]) -> Result:
    """A record of the output topic as the judge needs it; an inference's reply is the one row of its list."""
    value = record_value(record)
    named, body, error = value["record"], value.get("result"), value.get("error")
    assert isinstance(named, dict)
    reply = body[0] if isinstance(body, list) and body else body
    return Result(
        id=str(value["id"]),
        status=str(value["status"]),
        code=str(error["code"]) if isinstance(error, dict) else "",
        record=(str(named["topic"]), int(named["partition"]), int(named["offset"])),
        append_ms=int(str(record["append_ms"])),
        place=(int(str(record["partition"])), int(str(record["offset"]))),
        reply=reply if isinstance(reply, dict) else {},
    )
