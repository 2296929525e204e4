# mypy: ignore-errors
# Runs in an environment of its own, whose libraries a checker of this repository does not see.
"""A probe of the platform's design: Kafka in this process, predict() in a second one behind a socketpair; no routing, no tracking.

Parent: a poller thread (poll, frame) and a completer thread (frame, produce, commit); two batches at most in the child. Commits when
nothing is in flight, and every BENCH_CADENCE ms. With BENCH_NATURAL=1 a batch that is not full leaves only when nothing is
uncommitted: what arrives during a commit makes the next batch, and only full batches, a backlog, overlap.
"""

import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque

import msgspec

CADENCE_S = float(os.environ.get("BENCH_CADENCE", "50")) / 1000
NATURAL = os.environ.get("BENCH_NATURAL") == "1"
INFLIGHT = 2
pack, unpack = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(list[bytes]).decode


class Params(msgspec.Struct):
    rows: list[list[float]]


class Request(msgspec.Struct):
    id: str
    pipeline: str
    params: msgspec.Raw


class Result(msgspec.Struct):
    id: str
    pipeline: str
    status: str
    result: msgspec.Raw


def send(to, items):
    frame = pack(items)
    to.sendall(struct.pack("<I", len(frame)) + frame)


def receive(file):
    head = file.read(4)
    if len(head) < 4:
        os._exit(0)  # the other process ended
    (size,) = struct.unpack("<I", head)
    return unpack(file.read(size))


def child(descriptor):
    from common import predict

    to = socket.socket(fileno=descriptor)
    file = to.makefile("rb", buffering=1 << 20)
    decode, encode = msgspec.json.Decoder(list[Params]).decode, msgspec.json.Encoder().encode
    while True:
        items = receive(file)
        rows = [params.rows[0] for params in decode(b"[" + b",".join(items) + b"]")]
        send(to, [encode([label]) for label in predict(rows)])


if len(sys.argv) > 1:
    child(int(sys.argv[1]))

os.environ["BENCH_NO_MODEL"] = "1"
from common import BOOT, GROUP, IN, MAX, OUT  # noqa: E402
from confluent_kafka import Consumer, Producer, TopicPartition  # noqa: E402

decode, encode = msgspec.json.Decoder(Request).decode, msgspec.json.Encoder().encode
here, there = socket.socketpair()
for one in (here, there):
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        one.setsockopt(socket.SOL_SOCKET, option, 1 << 20)
without = {name: value for name, value in os.environ.items() if name != "BENCH_NO_MODEL"}
subprocess.Popen([sys.executable, __file__, str(there.fileno())], pass_fds=[there.fileno()], env=without)
there.close()
consumer = Consumer(
    {
        "bootstrap.servers": BOOT,
        "group.id": GROUP,
        "group.protocol": "consumer",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        "fetch.queue.backoff.ms": 20,
        "queued.min.messages": 20000,
    }
)
producer = Producer(
    {
        "bootstrap.servers": BOOT,
        "enable.idempotence": True,
        "transactional.id": f"{GROUP}.0",
        "linger.ms": 0,
        "partitioner": "murmur2_random",
        "queue.buffering.max.messages": 1000000,
        # The default of 100 costs 100 ms a transaction: the coordinator refuses one while it writes the markers of the one before.
        "retry.backoff.ms": 2,
        "retry.backoff.max.ms": 50,
    }
)
producer.init_transactions(30)
consumer.subscribe([IN])
flying = deque()
"""(messages, requests, group metadata) that the child has, oldest first."""
free = threading.Semaphore(INFLIGHT)
sent = threading.Semaphore(0)
lock, uncommitted = threading.Lock(), [0]


def poll():
    """The only thread that touches the consumer: in confluent-kafka 2.16 a poll loop starves every other thread's calls of it."""
    waiting = []
    while True:
        first = consumer.poll(0.001 if waiting else 0.05)
        more = consumer.consume(max(1, MAX - len(waiting) - 1), 0)
        waiting += [message for message in ([first] if first else []) + more if message.error() is None]
        full = len(waiting) >= MAX
        if not waiting or (NATURAL and not full and uncommitted[0]) or not free.acquire(blocking=not NATURAL or full):
            continue
        requests = [decode(message.value()) for message in waiting]
        flying.append((waiting, requests, consumer.consumer_group_metadata()))
        with lock:
            uncommitted[0] += 1
        send(here, [bytes(request.params) for request in requests])
        sent.release()
        waiting = []


def complete():
    """The only thread that touches the producer."""
    file = here.makefile("rb", buffering=1 << 20)
    offsets, opened_s, batches = {}, None, 0
    while True:
        sent.acquire()
        labels = receive(file)
        messages, requests, group = flying.popleft()
        free.release()
        batches += 1
        if opened_s is None:
            opened_s = time.monotonic()
            producer.begin_transaction()
        for message, request, label in zip(messages, requests, labels, strict=True):
            producer.produce(OUT, encode(Result(request.id, request.pipeline, "ok", msgspec.Raw(label))), message.key())
            offsets[message.partition()] = message.offset() + 1
        producer.poll(0)
        if not flying or time.monotonic() - opened_s >= CADENCE_S:
            positions = [TopicPartition(IN, partition, offset) for partition, offset in offsets.items()]
            producer.send_offsets_to_transaction(positions, group, 30)
            producer.commit_transaction(30)
            with lock:
                uncommitted[0] -= batches
            offsets, opened_s, batches = {}, None, 0


threading.Thread(target=complete, daemon=True).start()
poll()
