# mypy: ignore-errors
# Runs in an environment of its own, whose libraries a checker of this repository does not see.
"""The limit: one process, one loop, plain apsw, tables of its own. `bare.py DATABASE REQUESTS MODEL BATCH` prints one JSON object.

Reads a batch of requests, decodes it, predicts once on the batch, encodes the results, and writes them with the new offset of each
partition in one transaction; WAL and synchronous=FULL, as the log under test. Imports nothing of the platform. REQUESTS is a file
of JSON lines, laid over 12 partitions before the clock starts: the very bytes and places that the platform gets. A result names
the record that it answers; the other fields of the platform's results (release, durations, ...) it does not have.
"""

import json
import sys
import time

import apsw
import msgspec
import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

PARTITIONS = 12
TABLES = """
create table input(partition integer, offset integer, append_ms integer, key blob, value blob);
create table output(partition integer, offset integer, append_ms integer, key blob, value blob,
  primary key(partition, offset)) without rowid;
create table positions(partition integer primary key, next integer);
"""
READ = "select rowid, partition, offset, key, value from input where rowid > ? limit ?"


class Params(msgspec.Struct):
    rows: list[list[float]]


class Request(msgspec.Struct):
    id: str
    pipeline: str
    tenant: str
    params: Params


class RecordRef(msgspec.Struct):
    topic: str
    partition: int
    offset: int


class Result(msgspec.Struct):
    id: str
    pipeline: str
    tenant: str
    status: str
    record: RecordRef
    result: list[int]


def fit(kind, seed):
    random = np.random.default_rng(seed)
    rows = random.normal(size=(4000, 8))
    classes = (rows @ random.normal(size=8) + 0.5 * random.normal(size=4000) > 0).astype(int)
    model = LogisticRegression() if kind == "lr" else RandomForestClassifier(100, n_jobs=1, random_state=0)
    return model.fit(rows, classes)


def load(database, path):
    now_ms = time.time_ns() // 1_000_000
    with database, open(path, "rb") as lines:
        rows = ((n % PARTITIONS, n // PARTITIONS, now_ms, b"tenant-0", line.rstrip(b"\n")) for n, line in enumerate(lines))
        database.executemany("insert into input values(?, ?, ?, ?, ?)", rows)
    database.pragma("wal_checkpoint(TRUNCATE)")


def serve(database, model, batch, count):
    """Answer everything; returns requests a second and CPU microseconds a request, both after the first commit."""
    decode, encode = msgspec.json.Decoder(Request).decode, msgspec.json.Encoder().encode
    position, ends, commits = 0, [0] * PARTITIONS, []
    while position < count:
        rows = database.execute(READ, (position, batch)).fetchall()
        requests = [decode(row[4]) for row in rows]
        labels = model.predict(np.array([request.params.rows[0] for request in requests])).tolist()
        now_ms, results, positions = time.time_ns() // 1_000_000, [], {}
        for (_, partition, offset, key, _), request, label in zip(rows, requests, labels, strict=True):
            record = RecordRef("input", partition, offset)
            value = encode(Result(request.id, request.pipeline, request.tenant, "ok", record, [label]))
            results.append((partition, ends[partition], now_ms, key, value))
            ends[partition] += 1
            positions[partition] = offset + 1
        with database:
            database.executemany("insert into output values(?, ?, ?, ?, ?)", results)
            database.executemany("insert or replace into positions values(?, ?)", positions.items())
        position = rows[-1][0]
        commits.append((time.perf_counter(), time.process_time(), position))
    first, last = commits[0], commits[-1]
    done = last[2] - first[2]
    return done / (last[0] - first[0]), (last[1] - first[1]) / done * 1e6


def main():
    path, requests, kind, batch = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    model = fit(kind, 7)
    model.predict(np.zeros((batch, 8)))
    database = apsw.Connection(path)
    database.execute("pragma journal_mode=wal; pragma synchronous=full")
    database.execute(TABLES)
    load(database, requests)
    (count,) = database.execute("select count(*) from input").fetchone()
    rate, cpu_us = serve(database, model, batch, count)
    results = [json.loads(text) for (text,) in database.execute("select value from output")]
    with open(path + ".labels", "w") as file:
        json.dump({result["id"]: result["result"] for result in results}, file)
    print(json.dumps({"requests_per_s": rate, "cpu_us_per_request": cpu_us, "results": len(results)}))


if __name__ == "__main__":
    main()
