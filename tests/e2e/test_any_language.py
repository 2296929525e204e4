"""Callers in other languages: what `protocol/kafka` says is done to the letter, with Kafka's own console programs, and holds.

A real broker and a real node; the broker is of this module alone, because the text begins with empty topics.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from confluent_kafka import Producer
from running_platform import DLQ, INPUT, OUTPUT, Running, wheel

from blackbox.kafka import Broker
from blackbox.stream import record_value, wait_for
from docs.run_blocks import Step, agrees, blocks_of, steps_of

pytestmark = [pytest.mark.xdist_group("any language"), pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
TEXT = ROOT / "protocol" / "kafka" / "README.md"
GOLDEN = ROOT / "protocol" / "golden" / "kafka-v1"
PROGRAMS = ROOT / ".kafka" / "bin"
TENANT, FACTOR = "acme", 3.0


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with Broker(tmp_path_factory.mktemp("any-language") / "kafka") as broker:
        yield broker


@pytest.fixture(scope="module")
def running(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A node on that broker, with the package `weigh` deployed; its topics hold no request yet."""
    settings = {"MILLSTREAM_KAFKA_BOOTSTRAP": broker.bootstrap}
    running = Running.start(tmp_path_factory.mktemp("any-language-node") / "data", settings)
    deployed = running.deploy(wheel("1.0.0"))
    assert deployed.code == 0, deployed.err
    yield running
    assert running.close() == 0


@pytest.fixture(scope="module")
def shell(broker: Broker) -> dict[str, str]:
    """The environment of a stranger's shell: `$BROKER`, and Kafka's programs on the path."""
    assert (PROGRAMS / "kafka-console-producer.sh").exists(), "Kafka's own programs are not here; run: make kafka-tools"
    home = {name: os.environ[name] for name in ("JAVA_HOME",) if name in os.environ}
    return {"PATH": f"{PROGRAMS}:{os.environ['PATH']}", "BROKER": broker.bootstrap, "LC_ALL": "C.UTF-8", **home}


def say(command: str, shell: dict[str, str], stdin: bytes = b"") -> str:
    """Run a command as the stranger's shell does; its standard output."""
    done = subprocess.run(["bash", "-c", command], env=shell, input=stdin, capture_output=True, timeout=90, check=False)
    printed = done.stdout.decode()
    assert done.returncode == 0, printed + done.stderr.decode()
    return printed


def produce(shell: dict[str, str], lines: list[bytes], *properties: str) -> None:
    """Put lines on the input topic with the console producer."""
    given = " ".join(f"--reader-property {one}" for one in properties)
    say(f"kafka-console-producer.sh --bootstrap-server $BROKER --topic {INPUT} {given}", shell, b"".join(line + b"\n" for line in lines))


@pytest.fixture(scope="module")
def tried(running: Running, shell: dict[str, str]) -> list[tuple[Step, str]]:
    """The commands of the text, run in order on topics that are empty yet, and what each printed."""
    # What somebody else has done before, as the text says: a model of the tenant, its result kept off the output topic.
    say("kafka-topics.sh --bootstrap-server $BROKER --create --topic ml.reply.operator --partitions 1", shell)
    training = {"id": "t-1", "pipeline": "weigh_learn", "tenant": TENANT, "params": {"factor": FACTOR}, "reply_to": "ml.reply.operator"}
    running.send([training])
    wait_for(lambda: "model_switched" in running.say("logs").out, 60, "the model in the node", every_s=0.5)
    blocks = blocks_of(TEXT.read_text(encoding="utf-8"))
    return [(step, say(step.command, shell)) for block in blocks if block.language == "console" for step in steps_of(block)]


def test_a_caller_written_from_the_text_alone_gets_the_answers_that_it_shows(tried: list[tuple[Step, str]]) -> None:
    """Every command of protocol/kafka/README.md, run by nothing but Kafka's own programs, prints what the text shows."""
    assert len(tried) >= 7
    for step, printed in tried:
        assert agrees(step.shown, printed), f"line {step.line}: `{step.command}` prints\n{printed}"


@pytest.mark.usefixtures("tried")
def test_the_groups_of_the_nodes_are_described_from_any_folder(shell: dict[str, str], tmp_path: Path) -> None:
    """What the page about operation shows: a program that `make kafka-tools` wrote, called by a link to it, tells the lag of the input."""
    linked = tmp_path / "kafka-consumer-groups.sh"
    linked.symlink_to(PROGRAMS / "kafka-consumer-groups.sh")

    printed = say(f"cd {tmp_path} && ./{linked.name} --bootstrap-server $BROKER --describe --group millstream", shell)

    assert sum(INPUT in line for line in printed.splitlines()) == 12


@pytest.mark.usefixtures("tried")
def test_records_that_a_stranger_gets_wrong_end_as_the_text_says(running: Running, shell: dict[str, str]) -> None:
    """No key, no value, no JSON, headers against the value: each has its one outcome, and a neighbour its right answer."""
    event = "ce_specversion:1.0,ce_id:{id},ce_type:t,ce_source:/s,ce_subject:length"
    rows = [
        ("NULL", "NULL", '{"id": "w-no-key", "pipeline": "length", "params": {"text": "abc"}}'),
        ("NULL", "k", "NULL"),
        ("NULL", "k", '{"id": "w-half'),
        ("ce_id:w-header", "k", '{"id": "w-value", "pipeline": "length", "params": {"text": "abc"}}'),
        ("content-type:application/cloudevents+json", "k", '{"id": "w-no-event", "pipeline": "length"}'),
        ("content-type:application/cloudevents+json", "k", '{"text": "w-nobody"}'),
        (event.format(id="w-event-without-value"), "k", "NULL"),
        (event.format(id="w-event") + ",kafka_correlationId:c-7,traceparent:00-1-2-01", "NULL", '{"text": "abcd"}'),
        (event.format(id="w-reply") + ",ce_replyto:ml.pipeline.input", "k", '{"text": "abcd"}'),
    ]  # fmt: skip
    letters = len(running.letters)

    produce(shell, ["\t".join(row).encode() for row in rows], "parse.headers=true", "parse.key=true", "null.marker=NULL")

    ids = ["w-no-key", "w-header", "w-no-event", "w-event-without-value", "w-event", "w-reply"]
    answers = running.answers(ids)
    said = {id: (a["status"], a.get("result"), *(_error(a, "code"), _error(a, "path"))) for id, a in answers.items()}
    assert said == {
        "w-no-key": ("ok", 3, None, None),
        "w-header": ("invalid", None, "bad_request", "ce_id"),
        "w-no-event": ("invalid", None, "bad_request", "content-type"),
        "w-event-without-value": ("invalid", None, "bad_parameters", "$.text"),
        "w-event": ("ok", 4, None, None),
        "w-reply": ("invalid", None, "reply_topic_not_allowed", "ce_replyto"),
    }
    wait_for(lambda: len(running.letters) >= letters + 3, 30, "three dead letters")
    values = [letter.get("value_base64") for letter in running.letters[letters:]]
    assert sorted(base64.b64decode(str(value)) for value in values if value) == [b'{"id": "w-half']
    assert sorted(json.dumps(letter.get("value")) for letter in running.letters[letters:] if "value" in letter) == ['{"text": "w-nobody"}']
    assert sum(bool(letter.get("tombstone")) for letter in running.letters[letters:]) == 1
    headers = _result_headers(running, "w-event")
    assert (headers["kafka_correlationId"], headers["traceparent"], headers["ce_correlationid"]) == ("c-7", "00-1-2-01", "w-event")


@pytest.mark.usefixtures("tried")
@pytest.mark.parametrize("apart_s", [-600, 600], ids=["ten minutes behind", "ten minutes ahead"])
def test_a_caller_whose_clock_is_wrong_has_the_time_that_it_gave(apart_s: int, running: Running, broker: Broker) -> None:
    """Limits count from the broker's append time: neither the event's times nor the sender's timestamp are compared with a clock."""
    now = datetime.now(UTC) + timedelta(seconds=apart_s)
    name = "behind" if apart_s < 0 else "ahead"

    def event(id: str, subject: str, limit_s: float) -> dict[str, str]:
        times = {"ce_time": now.isoformat(), "ce_expirytime": (now + timedelta(seconds=limit_s)).isoformat()}
        needed = {"ce_specversion": "1.0", "ce_id": f"{id}-{name}", "ce_type": "t", "ce_source": "/s", "ce_subject": subject}
        return needed | times | {"ce_tenant": TENANT}

    producer = Producer({"bootstrap.servers": broker.bootstrap})
    sent_ms = int(now.timestamp() * 1000)
    plain = {"id": f"c-plain-{name}", "pipeline": "length", "params": {"text": "abc"}, "timeout_s": 20}
    for value, headers in (
        (json.dumps(plain), {}),
        ('{"text": "abc"}', event("c-event", "length", 20)),
        ('{"x": 1, "seconds": 0.9}', event("c-late", "weigh", 0.2)),
    ):
        producer.produce(INPUT, value.encode(), headers=list(headers.items()), timestamp=sent_ms)
    assert producer.flush(20) == 0

    answers = running.answers([f"c-plain-{name}", f"c-event-{name}", f"c-late-{name}"])
    assert [answer["status"] for answer in answers.values()] == ["ok", "ok", "expired"]


@pytest.mark.usefixtures("tried")
def test_an_event_is_read_as_one_after_every_retry_and_as_a_replayed_dead_letter(running: Running, shell: dict[str, str]) -> None:
    """Its headers travel with it: each try has its parameters, the dead letter its id, the replay its correlation."""
    headers = "ce_specversion:1.0,ce_id:d-event,ce_type:t,ce_source:/s,ce_subject:length,ce_correlationid:order-7"
    produce(shell, [f'{headers}\tk\t{{"text": "", "harm": "exit"}}'.encode()], "parse.headers=true", "parse.key=true")

    first = running.answers(["d-event"])["d-event"]
    assert (first["status"], _error(first, "code"), first["attempt"]) == ("dead", "worker_died", 3)
    assert _result_headers(running, "d-event")["ce_correlationid"] == "order-7"
    replayed = running.say("dlq", "replay", "d-event", "--yes")
    assert replayed.code == 0, replayed.err
    wait_for(lambda: len(running.results["d-event"]) == 2, 30, "the answer of the replay")
    second = running.results["d-event"][1]
    assert (second["status"], second["pipeline"], second["replay_of"]) == ("dead", "length", first["record"])


@pytest.mark.usefixtures("tried")
def test_an_answer_that_its_reply_topic_does_not_take_is_told_and_holds_up_nobody(running: Running, shell: dict[str, str]) -> None:
    """It ends failed where its caller looks for it, or on the output topic where even that does not fit; the requests behind it on
    its partition are answered."""
    for topic, most_bytes in (("ml.reply.small", 2000), ("ml.reply.tiny", 200)):
        create = "kafka-topics.sh --bootstrap-server $BROKER --create --partitions 1"
        say(f"{create} --topic {topic} --config max.message.bytes={most_bytes}", shell)

    running.send(
        [
            {"id": "s-small", "pipeline": "repeat", "params": {"text": "x", "times": 5000}, "reply_to": "ml.reply.small"},
            {"id": "s-tiny", "pipeline": "repeat", "params": {"text": "x", "times": 5000}, "reply_to": "ml.reply.tiny"},
            {"id": "s-next", "pipeline": "repeat", "params": {"text": "x", "times": 3}},
        ]
    )

    answers = running.answers(["s-tiny", "s-next"])
    (small,) = [record_value(record) for record in running.platform.records("ml.reply.small")]
    for answer in (small, answers["s-tiny"]):
        assert (answer["status"], _error(answer, "code")) == ("failed", "result_too_large")
    assert small["id"] == "s-small"
    assert answers["s-next"]["result"] == "xxx"
    assert running.counts(["s-small", "s-tiny"]) == {"s-small": 0, "s-tiny": 1}
    assert list(running.platform.records("ml.reply.tiny")) == []


@pytest.mark.usefixtures("tried")
def test_every_golden_record_ends_over_kafka_as_its_file_says(running: Running, shell: dict[str, str]) -> None:
    """Requests, refusals and dead letters, with the headers of their answers, on the topic and partition that was asked for."""
    cases = json.loads((GOLDEN / "records.json").read_text(encoding="utf-8"))
    say("kafka-topics.sh --bootstrap-server $BROKER --create --if-not-exists --topic ml.reply.billing --partitions 3", shell)
    say("kafka-topics.sh --bootstrap-server $BROKER --alter --topic ml.reply.billing --partitions 8", shell)
    lines = "".join(json.dumps({**case["record"], "partition": 5}) + "\n" for case in cases)

    places = [json.loads(line) for line in running.say("topics", "append", INPUT, stdin=lines.encode()).out.splitlines()]

    offsets = [place["offset"] for place in places]
    found: dict[int, dict[str, object]] = {}

    def all_ended() -> bool:
        found.update(_outcomes(running))
        return set(offsets) <= found.keys()

    wait_for(all_ended, 60, "an outcome of each record", every_s=1.0)
    for case, offset in zip(cases, offsets, strict=True):
        assert found[offset] == _expected(case, offset), case["name"]


def _expected(case: dict[str, object], offset: int) -> dict[str, object]:
    """The outcome that a case's verdict means: nobody has deployed the pipelines that golden records name."""
    if case["verdict"] == "dead letter":
        return {"topic": DLQ}
    answered = case["verdict"] == "request"
    headers = json.loads(json.dumps(case["answer_headers"]).replace("/3/41", f"/5/{offset}"))
    record = case["record"]
    asked = record["headers"].get("kafka_replyPartition") if isinstance(record, dict) else None
    outcome = {
        "topic": case["reply_to"] or OUTPUT,
        "id": case["id"],
        "pipeline": case["pipeline"] if answered else "",
        "tenant": case["tenant"] if answered else "",
        "status": "invalid",
        "code": "unknown_pipeline" if answered else case["code"],
        "path": "$.pipeline" if answered else case["path"],
        "headers": headers,
    }
    return outcome | ({"partition": 7} if asked else {})


def _outcomes(running: Running) -> dict[int, dict[str, object]]:
    """What became of the records of partition 5 of the input topic, by their offset."""
    found: dict[int, dict[str, object]] = {}
    for topic in (OUTPUT, "ml.reply.billing"):
        for record in running.platform.records(topic):
            value = record_value(record)
            of = value["record"]
            assert isinstance(of, dict)
            if of["partition"] != 5:
                continue
            offset = int(of["offset"])
            assert offset not in found, f"a second outcome of {offset}"
            found[offset] = {
                "topic": topic,
                "id": value["id"],
                "pipeline": value["pipeline"],
                "tenant": value["tenant"],
                "status": value["status"],
                "code": _error(value, "code"),
                "path": _error(value, "path"),
                "headers": record["headers"],
            }
            spring = record["headers"].get("kafka_correlationId") if isinstance(record["headers"], dict) else None
            if spring:
                found[offset]["partition"] = record["partition"]
    for letter in running.platform.records(DLQ):
        headers = letter["headers"]
        assert isinstance(headers, dict)
        if headers["ms_origin_partition"] == "5":
            offset = int(headers["ms_origin_offset"])
            assert offset not in found, f"a second outcome of {offset}"
            found[offset] = {"topic": DLQ}
    return found


def _result_headers(running: Running, id: str) -> dict[str, object]:
    for record in running.platform.records(OUTPUT):
        if record_value(record)["id"] == id:
            headers = record["headers"]
            assert isinstance(headers, dict)
            return headers
    raise AssertionError(f"no result of {id}")


def _error(answer: dict[str, object], name: str) -> object:
    error = answer.get("error")
    return error.get(name) if isinstance(error, dict) else None
