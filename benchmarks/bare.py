"""The limit: one process, one loop, plain apsw, tables of its own. `bare.py DATABASE REQUESTS MODEL BATCH` prints one JSON object.

Reads a batch of requests, decodes it, predicts once on the batch, encodes the results, and writes them with the new position in
one transaction; WAL and synchronous=FULL, as the log under test. Imports nothing of the platform. REQUESTS is a file of JSON
lines, loaded before the clock starts; it holds the very bytes that the platform gets.
"""

import json
import sys
import time

import apsw
import msgspec
import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression


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


def fit(kind, seed):
    random = np.random.default_rng(seed)
    rows = random.normal(size=(4000, 8))
    classes = (rows @ random.normal(size=8) + 0.5 * random.normal(size=4000) > 0).astype(int)
    model = LogisticRegression() if kind == "lr" else RandomForestClassifier(100, n_jobs=1, random_state=0)
    return model.fit(rows, classes)


def open_database(path):
    database = apsw.Connection(path)
    database.execute("pragma journal_mode=wal; pragma synchronous=full")
    database.execute(
        "create table input(number integer primary key, value blob);"
        "create table output(number integer primary key, append_ms integer, value blob);"
        "create table position(name text primary key, next integer)"
    )
    return database


def load(database, path):
    with database, open(path, "rb") as lines:
        database.executemany("insert into input(value) values(?)", ((line.rstrip(b"\n"),) for line in lines))
    database.pragma("wal_checkpoint(TRUNCATE)")


def serve(database, model, batch, count):
    decode, encode = msgspec.json.Decoder(Request).decode, msgspec.json.Encoder().encode
    position, first, commits = 0, None, []
    while position < count:
        rows = database.execute("select number, value from input where number > ? order by number limit ?", (position, batch)).fetchall()
        requests = [decode(value) for _, value in rows]
        labels = model.predict(np.array([request.params.rows[0] for request in requests])).tolist()
        now_ms = time.time_ns() // 1_000_000
        results = [(now_ms, encode(Result(r.id, r.pipeline, "ok", [label]))) for r, label in zip(requests, labels, strict=True)]
        position = rows[-1][0]
        with database:
            database.executemany("insert into output(append_ms, value) values(?, ?)", results)
            database.execute("insert or replace into position values('bare', ?)", (position,))
        commits.append((time.perf_counter(), time.process_time(), position))
        first = first or commits[0]
    last = commits[-1]
    done = last[2] - first[2]
    return done / (last[0] - first[0]), (last[1] - first[1]) / done * 1e6


def main():
    path, requests, kind, batch = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    model = fit(kind, 7)
    model.predict(np.zeros((batch, 8)))
    database = open_database(path)
    load(database, requests)
    (count,) = database.execute("select count(*) from input").fetchone()
    rate, cpu_us = serve(database, model, batch, count)
    labels = {value["id"]: value["result"] for (text,) in database.execute("select value from output") for value in [json.loads(text)]}
    with open(path + ".labels", "w") as file:
        json.dump(labels, file)
    print(json.dumps({"requests_per_s": rate, "cpu_us_per_request": cpu_us, "results": len(labels)}))


if __name__ == "__main__":
    main()
