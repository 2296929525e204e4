# mypy: ignore-errors
# Runs in an environment of its own, whose libraries a checker of this repository does not see.
"""aiokafka by hand: getmany(500), a transaction per batch. It has neither the group protocol of KIP-848 nor the group's generation
in its commits (aiokafka#844), so a member that was thrown out is not fenced."""

import asyncio

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from common import BOOT, GROUP, IN, MAX, OUT, predict


class Params(msgspec.Struct):
    rows: list[list[float]]


class Request(msgspec.Struct):
    id: str
    pipeline: str
    params: Params


decode, encode = msgspec.json.Decoder(Request).decode, msgspec.json.Encoder().encode


async def main():
    consumer = AIOKafkaConsumer(
        IN,
        bootstrap_servers=BOOT,
        group_id=GROUP,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_poll_records=MAX,
    )
    producer = AIOKafkaProducer(bootstrap_servers=BOOT, transactional_id=f"{GROUP}.0", retry_backoff_ms=2, max_batch_size=1 << 17)
    await consumer.start()
    await producer.start()
    while True:
        got = await consumer.getmany(timeout_ms=50, max_records=MAX)
        if not got:
            continue
        messages = [message for several in got.values() for message in several]
        requests = [decode(message.value) for message in messages]
        labels = predict([request.params.rows[0] for request in requests])
        async with producer.transaction():
            for message, request, label in zip(messages, requests, labels, strict=True):
                said = {"id": request.id, "pipeline": request.pipeline, "status": "ok", "result": [label]}
                await producer.send(OUT, encode(said), key=message.key)
            await producer.send_offsets_to_transaction({of: several[-1].offset + 1 for of, several in got.items()}, GROUP)


asyncio.run(main())
