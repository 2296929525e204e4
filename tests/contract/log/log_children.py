"""What other processes do to a log while a test looks on; each function is the whole life of one process."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection
from pathlib import Path

from log_cases import GROUP, IN, MAX_RECORD_BYTES, OUT, PARTITIONS, Listener, numbered, open_log
from millstream_server.adapters.kafka import KafkaLog
from millstream_server.adapters.sqlite_log.database import Database
from millstream_server.core.errors import MillstreamError
from millstream_server.core.log import CommitPosition, Outgoing

BATCH = 20


def append_numbered(address: str, name: str, count: int) -> None:
    """Append records numbered from 0 under the name, in calls of 1 and of 39 by turns."""
    log = open_log(address)
    number = 0
    while number < count:
        size = min(1 if number % 40 == 0 else 39, count - number)
        log.append([Outgoing(IN, str(n).encode(), key=name.encode(), partition=n % PARTITIONS) for n in range(number, number + size)])
        number += size
    log.close()


def answer_until_killed(address: str, told: Connection) -> None:
    """Read requests and commit one result for each together with its position, telling of each commit, until killed."""
    log = open_log(address)
    consumer = log.consumer(GROUP, [IN], Listener())
    committer = log.committer("child")
    while True:
        records = consumer.poll(BATCH, 1.0)
        ends = {record.partition: record.offset + 1 for record in records}
        committer.begin()
        committer.send([Outgoing(OUT, record.value, key=record.key, partition=record.partition) for record in records])
        committer.commit(GROUP, [CommitPosition(IN, partition, offset) for partition, offset in ends.items()], consumer.snapshot())
        told.send(len(records))


def append_until_killed(address: str, told: Connection) -> None:
    """Append batches, telling the last number of each after it was acknowledged, until killed."""
    log = open_log(address)
    number = 0
    while True:
        log.append([Outgoing(IN, str(n).encode(), key=b"k", partition=n % PARTITIONS) for n in range(number, number + BATCH)])
        number += BATCH
        told.send(number)


def hold_the_log_again_and_again(path: str, seconds: float, times: int, told: Connection) -> None:
    """Have the embedded log for so long, with pauses of half a millisecond; tells when it begins and when it has ended."""
    database = Database(Path(path), synchronous="FULL", busy_timeout_s=5.0)
    told.send("begins")
    for _ in range(times):
        with database.transaction("holding the log"):
            time.sleep(seconds)  # what is held is the point
        time.sleep(0.0005)
    told.send("ended")
    database.close()


def commit_after_a_freeze(bootstrap: str, options: dict[str, object], told: Connection) -> None:
    """Read from Kafka until the partitions were lost and came again, then commit under the word of before; tells what was told, how
    the commit ended, and the epochs before and after."""
    log = KafkaLog.open(bootstrap, options=options, max_record_bytes=MAX_RECORD_BYTES)
    listener = Listener()
    consumer = log.consumer(GROUP, [IN], listener, writer="frozen")
    committer = log.committer("frozen")
    while listener.epoch < 0:
        consumer.poll(10, 0.1)
    before, snapshot = listener.epoch, consumer.snapshot()
    told.send("reads")
    while listener.epoch == before:
        consumer.poll(10, 0.1)
    committer.begin()
    committer.send(numbered(1, topic=OUT))
    try:
        committer.commit(GROUP, [CommitPosition(IN, 0, 2)], snapshot)
        ended = "committed"
    except MillstreamError as error:
        ended = type(error).__name__
    told.send((listener.told[:3], ended, [before, listener.epoch]))
    consumer.close()
    log.close()
