# mypy: ignore-errors
# Runs in an environment of its own, whose libraries a checker of this repository does not see.
"""The limit: one process, one loop, transactions. `bare.py txn` commits after every batch, or every BENCH_CADENCE ms and when
nothing waits.

It does no routing, tracks no offsets but the last of each partition, isolates nothing, and its results have four fields.
"""

import os
import time

import msgspec
from common import BOOT, GROUP, IN, MAX, OUT, predict
from confluent_kafka import Consumer, Producer, TopicPartition

CADENCE_S = float(os.environ.get("BENCH_CADENCE", "0")) / 1000


class Params(msgspec.Struct):
    rows: list[list[float]]


class Request(msgspec.Struct):
    id: str
    pipeline: str
    params: Params


class Result(msgspec.Struct):
    id: str
    pipeline: str
    status: str
    result: list[int]


decode, encode = msgspec.json.Decoder(Request).decode, msgspec.json.Encoder().encode
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
offsets, last_s = {}, time.monotonic()
while True:
    first = consumer.poll(0.05 if not offsets else 0)
    batch = ([first] if first else []) + consumer.consume(MAX - 1, 0)
    batch = [message for message in batch if message.error() is None]
    if batch:
        if not offsets:
            producer.begin_transaction()
            last_s = time.monotonic()
        requests = [decode(message.value()) for message in batch]
        labels = predict([request.params.rows[0] for request in requests])
        for message, request, label in zip(batch, requests, labels, strict=True):
            producer.produce(OUT, encode(Result(request.id, request.pipeline, "ok", [label])), message.key())
            offsets[message.partition()] = message.offset() + 1
    producer.poll(0)
    if offsets and (not batch or time.monotonic() - last_s >= CADENCE_S):
        positions = [TopicPartition(IN, partition, offset) for partition, offset in offsets.items()]
        producer.send_offsets_to_transaction(positions, consumer.consumer_group_metadata(), 30)
        producer.commit_transaction(30)
        offsets.clear()
        last_s = time.monotonic()
