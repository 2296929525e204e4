"""Bad input, row by row, against a running `millstream up`, each while 20 neighbours of the same pool are in flight.

Every row says what its caller gets: the status, the code, the JSON path, and a mend that names the case. The neighbours, ten
called row by row and ten joined in one call, get their own right answers whatever happens beside them.

One long file, because all rows are tried on the same two platforms, embedded and on Kafka, which must live on through all of them.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from running_platform import INPUT, OUTPUT, Request, Running, command_in, wheel

from blackbox.kafka import Broker
from blackbox.processes import workers
from blackbox.stream import wait_for

pytestmark = pytest.mark.xdist_group("bad input")

FACTOR = 3.0
TENANT = "bad"
MOST_RECORD_BYTES = 8 << 20


@pytest.fixture(scope="module", params=["embedded", "kafka"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`millstream up` on either log, with the package `weigh` deployed and a model of the tenant trained."""
    settings = {"MILLSTREAM_NODE_WORKER_MEMORY_BYTES": "300MiB"}
    broker = Broker(tmp_path_factory.mktemp("kafka")) if request.param == "kafka" else None
    if broker is not None:
        broker.start()
        settings["MILLSTREAM_KAFKA_BOOTSTRAP"] = broker.bootstrap
    running = Running.start(tmp_path_factory.mktemp("bad-input") / "data", settings)
    deployed = running.deploy(wheel("1.0.0"))
    assert deployed.code == 0, deployed.err
    running.train(TENANT, FACTOR)
    yield running
    # Whatever was acknowledged with an id, in all rows together, has exactly one result by now.
    counts = running.counts(list(running.acks))
    assert {id: count for id, count in counts.items() if count != 1} == {}
    assert running.close() == 0
    if broker is not None:
        broker.kill()


def request(id: str, pipeline: str, params: object, **fields: object) -> Request:
    return {"id": id, "pipeline": pipeline, "tenant": TENANT, "params": params, **fields}


class Neighbours:
    """Twenty good requests of the same tenant and pool."""

    def __init__(self, name: str) -> None:
        self.requests = [self._request(f"{name}-{number}", float(number)) for number in range(20)]

    @staticmethod
    def _request(id: str, x: float) -> Request:
        return request(id, "weigh", {"x": x}) if x % 2 else request(id, "weigh_all", {"rows": [{"x": x}]})

    def around(self, *others: Request | bytes) -> list[Request | bytes]:
        """The order in which all are sent: ten, then the bad ones, then ten."""
        return [*self.requests[:10], *others, *self.requests[10:]]

    def check(self, running: Running) -> None:
        """All 20 have their one right answer."""
        ids = [str(one["id"]) for one in self.requests]
        for number, (id, answer) in enumerate(running.answers(ids).items()):
            expected: object = number * FACTOR if number % 2 else [number * FACTOR]
            assert (answer["status"], answer.get("result")) == ("ok", expected), (id, answer)


@dataclass(frozen=True)
class Row:
    """One kind of bad request and what its caller must be told. `mend` is what the mend must hold, `{id}` is the request's."""

    name: str
    pipeline: str
    params: object
    status: str
    code: str
    path: str
    mend: str
    fields: dict[str, object] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return "bad-" + self.name.replace(" ", "-")


LOGS, REPLAY = "millstream logs --request {id}", "millstream dlq replay {id}"
SCHEMA, SHAPE = "millstream releases show weigh", "millstream topics append --help"

ROWS = [
    Row("wrong shape", "weigh", {}, "invalid", "bad_request", "$.timeout_s", SHAPE, {"timeout_s": "soon"}),
    Row("unknown field", "weigh", {"x": 1}, "invalid", "bad_request", "$", SHAPE, {"release": "2.0.0"}),
    Row("unknown pipeline", "wiegh", {"x": 1}, "invalid", "unknown_pipeline", "$.pipeline", "millstream invoke weigh --tenant bad"),
    Row("missing parameter", "weigh", {}, "invalid", "bad_parameters", "$.x", SCHEMA),
    Row("wrong parameter", "weigh", {"x": "heavy"}, "invalid", "bad_parameters", "$.x", SCHEMA),
    Row("wrong row", "weigh_all", {"rows": [{"x": 1}, {"x": "a"}]}, "invalid", "bad_parameters", "$.rows[1].x", SCHEMA),
    Row("no model", "weigh", {"x": 1}, "invalid", "no_model", "", "millstream invoke weigh_learn --tenant nobody", {"tenant": "nobody"}),
    Row("expired", "weigh", {"x": 1}, "expired", "expired", "", "millstream status", {"timeout_s": 0.0001}),
    Row("expires while it runs", "length", {"text": "", "harm": "slow"}, "expired", "expired", "", "millstream status", {"timeout_s": 0.3}),
    Row("raises", "weigh", {"x": 1, "harm": "raise"}, "failed", "pipeline_raised", "", LOGS),
    Row("raises joined", "weigh_all", {"rows": [{"x": 1, "harm": "raise"}]}, "failed", "pipeline_raised", "", LOGS),
    Row("has no time to be tried again", "weigh", {"x": 1, "harm": "raise for now"}, "failed", "pipeline_raised", "", LOGS, {"timeout_s": 4}),  # noqa: E501  # one row of the table, one line
    Row("returns the wrong type", "weigh", {"x": 1, "harm": "wrong type"}, "failed", "wrong_result", "$", LOGS),
    Row("returns the wrong type joined", "weigh_all", {"rows": [{"x": 1, "harm": "wrong type"}]}, "failed", "wrong_result", "$[0]", LOGS),
    Row("returns NaN", "weigh", {"x": 1, "harm": "nan"}, "failed", "not_json", "$", LOGS),
    Row("returns NaN joined", "weigh_all", {"rows": [{"x": 1}, {"x": 1, "harm": "nan"}]}, "failed", "not_json", "$[1]", LOGS),
    Row("raises a huge message", "weigh", {"x": 1, "harm": "huge message"}, "failed", "pipeline_raised", "", LOGS),
    Row("returns too much", "repeat", {"text": "x", "times": 9_000_000}, "failed", "result_too_large", "$", LOGS),
    Row("never returns", "weigh", {"x": 1, "harm": "never return"}, "dead", "timed_out", "", REPLAY),
    Row("allocates without end", "length", {"text": "", "harm": "allocate"}, "dead", "out_of_memory", "", REPLAY),
    Row("exits", "weigh", {"x": 1, "harm": "exit"}, "dead", "worker_died", "", REPLAY),
    Row("exits joined", "weigh_all", {"rows": [{"x": 1, "harm": "exit"}]}, "dead", "worker_died", "", REPLAY),
    Row("segfaults", "weigh", {"x": 1, "harm": "segfault"}, "dead", "worker_died", "", REPLAY),
    Row("leaves a child", "weigh", {"x": 1, "harm": "leave a child"}, "dead", "worker_died", "", REPLAY),
    Row("breaks the protocol", "weigh", {"x": 1, "harm": "break the protocol"}, "dead", "worker_died", "", REPLAY),
    Row(
        "reply topic not allowed", "weigh", {"x": 1}, "invalid", "reply_topic_not_allowed", "$.reply_to", "reply_to", {"reply_to": INPUT}
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_bad_request_is_told_why_and_its_neighbours_are_answered(running: Running, row: Row) -> None:
    """One result with status, code, path and a mend that can be pasted; twenty right answers beside it; the node lives on."""
    node = running.up().pid
    neighbours = Neighbours(row.id)

    running.send(neighbours.around(request(row.id, row.pipeline, row.params, **row.fields)))
    answer = running.answers([row.id])[row.id]

    error = answer["error"]
    assert isinstance(error, dict)
    assert (answer["status"], error["code"], error.get("path", "")) == (row.status, row.code, row.path), answer
    assert row.mend.format(id=row.id) in error["mend"], error
    assert error["message"]
    assert "result" not in answer
    neighbours.check(running)
    if row.status == "dead":
        # Written in one transaction with the result, and read by another reader.
        wait_for(lambda: bool(letters_of(running, row.id)), 10, "the dead letter")
        assert letters_of(running, row.id) == [row.params]
    assert running.up().pid == node


def letters_of(running: Running, id: str) -> list[object]:
    """Parameters of a request's dead letters."""
    values = [one.get("value") for one in list(running.letters)]
    return [value["params"] for value in values if isinstance(value, dict) and value.get("id") == id]


def test_the_command_in_a_mend_can_be_pasted(running: Running) -> None:
    """Whatever command a mend names for a request that ended badly, running it as it stands is no usage error."""
    ids = {row.id for row in ROWS if running.results[row.id]}
    mends = {str(running.results[id][0]["error"]["mend"]) for id in ids}  # type: ignore[index]

    said = {mend: running.say(*command_in(mend), stdin=b"") for mend in mends if command_in(mend)}

    assert {mend: one.err for mend, one in said.items() if one.code == 2} == {}


def test_what_a_pipeline_prints_is_log_and_never_protocol(running: Running) -> None:
    """print and bytes on descriptor 1 become lines of the log under the request's id, and the answer stands."""
    neighbours = Neighbours("prints")
    bad = [request(f"prints {kind}", "weigh", {"x": 1, "harm": kind}) for kind in ("print", "descriptor 1", "flood")]

    running.send(neighbours.around(*bad))
    answers = running.answers([str(one["id"]) for one in bad])

    assert {(one["status"], one["result"]) for one in answers.values()} == {("ok", FACTOR)}
    neighbours.check(running)
    assert "a line on standard output" in running.say("logs", "--request", "prints print").out
    assert "bytes on descriptor 1" in running.say("logs", "--release", "weigh").out


@pytest.mark.parametrize(
    "data", [b"\xff\x00\xfe not JSON", b'{"pipeline": "weigh"}', b"", b"[" * 100_000], ids=["bytes", "no id", "empty", "deep"]
)
def test_what_cannot_be_read_is_a_dead_letter_with_its_bytes_untouched(running: Running, data: bytes) -> None:
    """Nobody can be answered, so there is no result: one dead letter with the bytes, the coordinates and the reason."""
    neighbours = Neighbours(f"undecodable-{len(data)}")
    before = len(running.letters)

    def letters() -> list[dict[str, object]]:
        """Those with the bytes; the letter of a request of another test may come now, its result was seen before."""
        return [letter for letter in running.letters[before:] if running.bytes_of(letter) == data]

    running.send(neighbours.around(data))
    wait_for(lambda: bool(letters()), 20, "a dead letter")

    (letter,) = letters()
    headers = letter["headers"]
    assert isinstance(headers, dict)
    assert (headers["ms_error_code"], headers["ms_origin_topic"]) == ("undecodable", INPUT)
    neighbours.check(running)


def test_a_nan_in_a_request_is_answered_with_its_path(running: Running) -> None:
    """JSON has no NaN, but many encoders write it: the caller is told where, and nothing of it becomes null."""
    neighbours = Neighbours("nan")

    running.send(neighbours.around(b'{"id": "nan", "pipeline": "weigh", "tenant": "bad", "params": {"x": NaN}}'))
    answer = running.answers(["nan"])["nan"]

    assert (answer["status"], answer["error"]["code"], answer["error"]["path"]) == ("invalid", "bad_request", "$.params.x")  # type: ignore[index]
    assert "$.params.x" in answer["error"]["mend"]  # type: ignore[index]
    neighbours.check(running)


def test_a_parameter_of_20_mb_is_refused_at_the_door_and_one_just_under_the_limit_is_answered(running: Running) -> None:
    """The log refuses what is too large before anything is acknowledged; the largest record it takes is a request like any other."""
    neighbours = Neighbours("large")
    envelope = len(json.dumps(request("large", "length", {"text": ""})).encode())
    fits = MOST_RECORD_BYTES - envelope - len(TENANT)

    refused = running.say("topics", "append", INPUT, stdin=json.dumps(request("20MB", "length", {"text": "x" * 20_000_000})).encode())
    running.send(neighbours.around(request("large", "length", {"text": "x" * fits})))

    assert refused.code == 3
    assert refused.err.startswith("error[record-too-large]: a record of 20,0")
    assert "where: line 1" in refused.err
    assert "mend: " in refused.err
    assert running.answers(["large"])["large"]["result"] == fits
    neighbours.check(running)
    assert "20MB" not in running.results


def test_the_largest_records_can_die_too(running: Running) -> None:
    """A retry or a dead letter carries its whole record and says more in headers: neither may end the node for want of room."""
    node = running.up().pid
    neighbours = Neighbours("large-dead")
    garbage = b"\xff" * (MOST_RECORD_BYTES - len(TENANT))
    envelope = len(json.dumps(request("large-dead", "length", {"text": "", "harm": "exit"})).encode())
    text = "x" * (MOST_RECORD_BYTES - envelope - len(TENANT))

    running.send(neighbours.around(garbage, request("large-dead", "length", {"text": text, "harm": "exit"})))
    answer = running.answers(["large-dead"])["large-dead"]
    wait_for(lambda: any(running.bytes_of(one) == garbage for one in running.letters), 20, "the dead letter of the garbage")

    assert (answer["status"], answer["error"]["code"]) == ("dead", "worker_died")  # type: ignore[index]
    neighbours.check(running)
    assert running.up().pid == node


def test_answers_that_are_too_large_together_each_come_alone(running: Running) -> None:
    """Eight answers of 7 MB do not fit one frame: those that did not are run again alone, at once, and charged with nothing."""
    neighbours = Neighbours("crowd")
    crowd = [request(f"crowd of {number}", "repeat", {"text": "x", "times": 7_000_000}) for number in range(8)]

    running.send(neighbours.around(*crowd))
    answers = running.answers([str(one["id"]) for one in crowd])

    assert {(one["status"], one["attempt"], len(str(one.get("result")))) for one in answers.values()} == {("ok", 1, 7_000_000)}
    neighbours.check(running)


RETRIED = {"ms_origin_topic": INPUT, "ms_origin_partition": "3", "ms_origin_offset": "0", "ms_origin_append_ms": "1", "ms_attempt": "0"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        RETRIED | {"ms_origin_partition": "99"},
        RETRIED | {"ms_origin_partition": "-1"},
        RETRIED | {"ms_origin_offset": "9" * 30},
        RETRIED | {"ms_origin_append_ms": "1e9"},
        RETRIED | {"ms_attempt": "-7"},
        RETRIED | {"ms_origin_topic": OUTPUT},
        RETRIED | {"ms_origin_topic": {"base64": "//8="}},
    ],
    ids=["none", "partition", "negative", "offset", "time", "attempt", "topic", "bytes"],
)
def test_a_stranger_on_a_retry_topic_is_a_dead_letter(running: Running, headers: dict[str, object]) -> None:
    """Anybody may write there: what a node could not have written is put aside, and the node lives on."""
    node = running.up().pid
    before = len(running.letters)
    record = {"value": request("stranger", "weigh", {"x": 1}), "key": TENANT, "headers": headers}

    said = running.say("topics", "append", "ml.pipeline.retry.0s", stdin=json.dumps(record).encode())
    wait_for(lambda: len(running.letters) > before, 20, "a dead letter")

    assert said.code == 0
    assert running.letters[-1]["headers"]["ms_error_code"] == "undecodable"  # type: ignore[index]
    assert running.up().pid == node


def test_an_answer_whose_reply_topic_is_not_there_stands_on_the_output_topic(running: Running) -> None:
    """Of an inference and of a run alike; the answers that come after it are not held up."""
    inference = request("no-reply", "weigh", {"x": 1}, reply_to="ml.reply.nowhere")
    training = {
        "id": "no-reply-run",
        "pipeline": "weigh_learn",
        "tenant": "other",
        "params": {"factor": 2.0},
        "reply_to": "ml.reply.nowhere",
    }

    running.send([inference, training])
    answers = running.answers(["no-reply", "no-reply-run"])
    running.train("other", 5.0)

    for answer in answers.values():
        assert (answer["status"], answer["error"]["code"]) == ("ok", "reply_topic_unavailable")  # type: ignore[index]


def test_a_training_that_is_late_ends_expired_once_and_makes_no_model(running: Running) -> None:
    """Before it was begun and while it runs; its deadline is the run's alone, so nobody else answers for it."""
    late = [
        {"id": "late-0", "pipeline": "weigh_learn", "tenant": "late", "params": {"factor": 2.0}, "timeout_s": 0.001},
        {"id": "late-1", "pipeline": "weigh_learn", "tenant": "late", "params": {"factor": 2.0, "seconds": 30.0}, "timeout_s": 1.0},
    ]

    running.send([*late])
    answers = running.answers(["late-0", "late-1"])
    running.train("late", 4.0)

    assert {(one["status"], one["error"]["code"]) for one in answers.values()} == {("expired", "expired")}  # type: ignore[index]
    models = running.platform.ask("models", "list", "--json")
    assert isinstance(models, list)
    assert [len(one["versions"]) for one in models if one["tenant"] == "late"] == [1]


# --- releases -------------------------------------------------------------------------------------------------------------


def broken_on_the_node() -> Path:
    """A release that imports where it is built and not where it is deployed."""
    old = "import millstream as ms\n"
    new = old + "if 'environments' in __file__:\n    raise ImportError('libweight.so.3 is not here')\n"
    return wheel("1.3.0", (old, new))


def unmeetable_lock(folder: Path) -> Path:
    """A release that locks a distribution of an index that the node does not have."""
    gone = folder / "gone-1.0-py3-none-any.whl"
    info = "gone-1.0.dist-info"
    with zipfile.ZipFile(gone, "w") as archive:
        archive.writestr("gone.py", "")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: gone\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"gone.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return wheel("1.2.0", ("dependencies = []", 'dependencies = ["gone==1.0"]'), index_arguments=f"--find-links {folder}")


@pytest.mark.parametrize("kind", ["hash", "lock", "import"])
def test_a_release_that_cannot_run_is_given_up_with_the_reason_and_the_old_one_serves_on(
    running: Running, tmp_path: Path, kind: str
) -> None:
    """A wheel whose hash is wrong, a lock that cannot be met, an import that fails: the deployment ends in words, not in silence."""
    neighbours = Neighbours(f"deploy-{kind}")
    path = {"hash": lambda: wheel("1.1.0"), "lock": lambda: unmeetable_lock(tmp_path), "import": broken_on_the_node}[kind]()
    running.platform.run("publish", str(path))
    if kind == "hash":
        published = running.platform.data_dir / "index" / path.name
        published.write_bytes(published.read_bytes() + b"\0")
    version = path.name.split("-")[1]

    deploying = threading.Thread(target=lambda: said.append(running.say("deploy", f"weigh=={version}")))
    said: list[object] = []
    deploying.start()
    running.send(neighbours.around())
    deploying.join()
    (ended,) = said

    words = {"hash": "hash-mismatch", "lock": "gone", "import": "libweight.so.3 is not here"}[kind]
    assert ended.code == (3 if kind == "hash" else 4), ended  # type: ignore[attr-defined]
    assert words in ended.err, ended  # type: ignore[attr-defined]
    assert "\nmend: " in ended.err  # type: ignore[attr-defined]
    assert command_in(ended.err.rpartition("mend: ")[2]) or kind == "hash"  # type: ignore[attr-defined]
    neighbours.check(running)
    shown = running.platform.ask("releases", "list", "--json")
    assert isinstance(shown, list)
    states = {one["version"]: one["status"] for one in shown if one["package"] == "weigh"}
    assert states["1.0.0"] == "CURRENT"
    assert states[version] == ("PUBLISHED" if kind == "hash" else "FAILED")


# --- models ---------------------------------------------------------------------------------------------------------------


def damage(running: Running, tenant: str, version: int) -> Path:
    """Change one byte of a model version's file."""
    models = running.platform.ask("models", "show", f"{tenant}.scale", "--json")
    assert isinstance(models, dict)
    (location,) = [one["location"] for one in models["versions"] if one["version"] == version]
    (file,) = [path for path in (running.platform.data_dir / "artifacts" / location).iterdir() if path.is_file()]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.chmod(0o600)
    file.write_bytes(data)
    return file


def test_a_model_with_one_changed_byte_never_loads(running: Running) -> None:
    """After a restart its only version is refused by name, unless an older good one is there: that one serves on."""
    for tenant in ("damaged", "twice"):
        running.train(tenant, 2.0)
    running.train("twice", 7.0)
    running.answers_to("twice", request("before", "weigh", {"x": 1.0}) | {"tenant": "twice"}, result=7.0)
    file = damage(running, "damaged", 1)
    damage(running, "twice", 2)
    neighbours = Neighbours("beside-damaged")

    asked = [request(f"{tenant}-{n}", "weigh", {"x": 1.0}) | {"tenant": tenant} for tenant in ("damaged", "twice") for n in range(5)]
    running.restart(neighbours.around(*asked))
    answers = running.answers([str(one["id"]) for one in asked])

    for number in range(5):
        error = answers[f"damaged-{number}"]["error"]
        assert (answers[f"damaged-{number}"]["status"], error["code"]) == ("failed", "model_damaged")  # type: ignore[index]
        assert file.name in error["message"]  # type: ignore[index]
        assert "millstream invoke weigh_learn --tenant damaged" in error["mend"]  # type: ignore[index]
        old = answers[f"twice-{number}"]
        assert (old["status"], old["result"], old["model_version"]) == ("ok", 2.0, 1)
    neighbours.check(running)


def test_a_model_may_take_longer_to_load_than_its_pipeline_may_run(running: Running) -> None:
    """The time limit of a request is pipeline code's: what waits for the loader, as after a restart, is answered at the first try."""
    running.train("heavy", 2.0, loading="slow")
    neighbours = Neighbours("beside-heavy")

    running.restart(neighbours.around(request("heavy", "weigh", {"x": 1.0}) | {"tenant": "heavy"}))
    answer = running.answers(["heavy"])["heavy"]

    assert (answer["status"], answer["result"], answer["attempt"]) == ("ok", 2.0, 1)
    neighbours.check(running)


@pytest.mark.parametrize("loading", ["exit", "raise"])
def test_a_model_that_cannot_be_loaded_is_given_up_and_the_version_before_it_serves_on(running: Running, loading: str) -> None:
    """Also where loading ends the worker: after a few deaths nobody is routed to it, so it ends no more workers. And after a restart,
    when the node learns of both versions at once."""
    tenant = f"cannot-{loading}"
    running.train(tenant, 2.0)
    running.answers_to(tenant, request("first", "weigh", {"x": 1.0}) | {"tenant": tenant}, result=2.0)
    running.train(tenant, 5.0, loading=loading)
    running.train(f"only-{tenant}", 5.0, loading=loading)

    for when in ("before", "after"):
        neighbours = Neighbours(f"{when}-{tenant}")
        asked = [request(f"{tenant}-{when}-{n}", "weigh", {"x": 1.0}) | {"tenant": tenant} for n in range(5)]
        lost = request(f"only-{tenant}-{when}", "weigh", {"x": 1.0}) | {"tenant": f"only-{tenant}"}
        (running.send if when == "before" else running.restart)(neighbours.around(*asked, lost))
        answers = running.answers([str(one["id"]) for one in asked])
        told = running.answers([str(lost["id"])])[str(lost["id"])]

        assert {(one["status"], one["result"], one["model_version"]) for one in answers.values()} == {("ok", 2.0, 1)}
        assert (told["status"], told["error"]["code"]) == ("failed", "model_load_failed")  # type: ignore[index]
        neighbours.check(running)


def settled_workers(running: Running) -> set[int]:
    """The workers, once none has come or gone for two seconds: after a restart models that cannot be loaded end some."""
    seen, since = set[int](), time.monotonic()

    def settled() -> bool:
        nonlocal seen, since
        if (now := {one.pid for one in workers(running.up().pid)}) != seen:
            seen, since = now, time.monotonic()
        return bool(seen) and time.monotonic() - since > 2.0

    wait_for(settled, 60, "workers that stay")
    return seen


def test_a_short_deadline_of_one_caller_costs_no_worker(running: Running) -> None:
    """What is late when its batch ends is answered as expired; the worker that ran it goes on, models loaded."""
    neighbours = Neighbours("short")
    before = settled_workers(running)

    running.send(neighbours.around(request("short", "length", {"text": "", "harm": "slow"}, timeout_s=0.2)))
    answer = running.answers(["short"])["short"]
    neighbours.check(running)

    assert answer["status"] == "expired"
    assert before <= {one.pid for one in workers(running.up().pid)}


def test_a_training_that_waits_for_the_store_beyond_its_deadline_is_answered_once(running: Running) -> None:
    """While another process holds the store nobody may promise an end that the run would promise again."""
    store = sqlite3.connect(running.platform.data_dir / "store.sqlite", isolation_level=None)
    store.execute("BEGIN IMMEDIATE")
    running.send([{"id": "held", "pipeline": "weigh_learn", "tenant": "held", "params": {"factor": 2.0}, "timeout_s": 0.5}])
    time.sleep(1.0)
    store.execute("ROLLBACK")
    store.close()

    answer = running.answers(["held"])["held"]
    running.train("held", 2.0)

    assert (answer["status"], len(running.results["held"])) == ("expired", 1)


# --- the data directory ---------------------------------------------------------------------------------------------------


def test_a_second_node_on_the_data_directory_is_told_who_holds_it(running: Running) -> None:
    """It ends at once with exit code 5 and the holder's process id; the holder notices nothing."""
    neighbours = Neighbours("second-node")
    running.send(neighbours.around())

    second = running.say("up")

    assert second.code == 5
    assert second.err.startswith("error[data-dir-held]")
    assert f"pid {running.up().pid}" in second.err
    assert "mend: " in second.err
    neighbours.check(running)
