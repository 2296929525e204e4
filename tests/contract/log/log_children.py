"""What other processes do to a log while a test looks on; each function is the whole life of one process."""

from __future__ import annotations

from multiprocessing.connection import Connection

from log_cases import GROUP, IN, OUT, PARTITIONS, Listener, open_log
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
