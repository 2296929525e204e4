"""The sender: a process that puts one request for each reading on the log, open loop, and writes down what was acknowledged.

It never looks at an answer. The story tells it on standard input, one JSON object a line: `{"rate": 800}` to send so many
requests a second from now on, `{"finish": true}` to send what is left and end. It tells on standard output how far it is.

The last readings are kept for the end and sent in one burst, so that there is a backlog when the node is killed. Where the
other readings run out before the story says finish (a small folder, a slow deployment), they are sent again in a further
round, as new requests.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from blackbox.command import Platform
from blackbox.stream import Acknowledged, Appending
from examples.anomaly.demo.readings import Reading, in_order, read_folder

INPUT = "ml.pipeline.input"
BURST = 4000
"""Requests sent as fast as the log takes them before the kill; more than a node answers in the second around it."""
TICK_S = 0.01
TELL_EVERY_S = 0.1
BURST_CHUNK = 250


@dataclass(frozen=True)
class Ask:
    """One request: its id, whose it is, the reading's time, and the JSON line that is sent."""

    id: str
    tenant: str
    timestamp: str
    line: bytes


class Orders:
    """What the story says, read on a thread of its own."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.finish = False
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            order = json.loads(line)
            self.rate = float(order.get("rate", self.rate))
            self.finish = self.finish or bool(order.get("finish"))
        self.finish = True


class Sender:
    """Sends and notes; acknowledgements are written on the thread that reads them."""

    def __init__(self, platform: Platform, sent_path: Path) -> None:
        self._file = sent_path.open("w", encoding="utf-8")
        self._append = Appending(platform, INPUT, self._note)
        self._told_at = 0.0
        self.sent = 0

    def _note(self, tag: object, where: Acknowledged) -> None:
        assert isinstance(tag, Ask)
        row = {
            "id": tag.id,
            "tenant": tag.tenant,
            "topic": where.topic,
            "partition": where.partition,
            "offset": where.offset,
            "sent_ms": where.sent_ms,
            "acked_ms": where.acked_ms,
            "timestamp": tag.timestamp,
        }
        self._file.write(json.dumps(row) + "\n")

    def send(self, asks: list[Ask]) -> None:
        self._append.send([(ask, ask.line) for ask in asks])
        self.sent += len(asks)

    def tell(self, phase: str, *, now: bool = False) -> None:
        """Say how far the sending is, at most every TELL_EVERY_S."""
        if now or time.monotonic() - self._told_at >= TELL_EVERY_S:
            self._told_at = time.monotonic()
            print(json.dumps({"phase": phase, "sent": self.sent, "acked": self._append.acked}), flush=True)

    def close(self) -> None:
        self._append.finish()
        self._file.close()
        self.tell("done", now=True)


def ask_for(reading: Reading, times: int) -> Ask:
    """The request that asks for the verdict on one reading; `times` tells repeated ones apart."""
    request_id = f"{reading.tenant}-{reading.position}" + (f"-again{times}" if times else "")
    row = {"timestamp": reading.timestamp, "value": reading.value, "window": reading.window}
    body = {"id": request_id, "pipeline": "detect", "tenant": reading.tenant, "params": {"rows": [row]}}
    return Ask(request_id, reading.tenant, reading.timestamp, json.dumps(body, separators=(",", ":")).encode())


def rounds(readings: list[Reading], first: int = 0) -> Iterator[tuple[int, Reading]]:
    """The readings again and again, with the number of the round."""
    times = first
    while True:
        for reading in readings:
            yield times, reading
        times += 1


def part(readings: list[Reading], burst: int) -> tuple[list[Reading], list[Reading]]:
    """Part what is sent at the rate from what is kept for the burst: at most a quarter of all, so that the stream is long."""
    kept = min(burst, len(readings) // 4)
    return readings[: len(readings) - kept], readings[len(readings) - kept :]


def stream(sender: Sender, orders: Orders, readings: list[Reading]) -> None:
    """Send at the ordered rate until every reading was sent and the story has said finish."""
    coming = rounds(readings)
    due_at = time.monotonic()
    while True:
        now = time.monotonic()
        asks: list[Ask] = []
        while due_at <= now and not (orders.finish and sender.sent + len(asks) >= len(readings)):
            times, reading = next(coming)
            asks.append(ask_for(reading, times))
            due_at += 1.0 / orders.rate
        if asks:
            sender.send(asks)
        sender.tell("stream")
        if orders.finish and sender.sent >= len(readings):
            return
        time.sleep(TICK_S)


def send_burst(sender: Sender, kept: list[Reading], burst: int) -> None:
    """Send the kept readings as fast as the log takes them, in further rounds where there are fewer than the burst needs."""
    coming = rounds(kept)
    asks = [ask_for(reading, times) for times, reading in (next(coming) for _ in range(max(burst, len(kept))))]
    for start in range(0, len(asks), BURST_CHUNK):
        sender.send(asks[start : start + BURST_CHUNK])
        sender.tell("burst", now=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="sender", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with metrics/*.csv")
    parser.add_argument("--data-dir", type=Path, required=True, help="the platform's data directory")
    parser.add_argument("--sent", type=Path, required=True, help="where acknowledged requests are written, JSON lines")
    parser.add_argument("--rate", type=float, required=True, help="requests a second until told otherwise")
    parser.add_argument("--burst", type=int, default=BURST, help="requests kept for the end")
    chosen = parser.parse_args()
    orders = Orders(chosen.rate)
    readings, kept = part(in_order(read_folder(chosen.data)), chosen.burst)
    sender = Sender(Platform(chosen.data_dir), chosen.sent)
    stream(sender, orders, readings)
    send_burst(sender, kept, chosen.burst)
    sender.close()


if __name__ == "__main__":
    main()
