"""What the harness takes as proof: lines of a node's log and claims on their topic, and plans that a seed alone draws."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from chaos.kafka.command import kinds_of
from chaos.kafka.plan import KINDS, Requests, rounds
from chaos.kafka.witness import Book, node_of


def write(path: Path, event: str, message: str, level: str = "warning") -> None:
    with path.open("a") as file:
        file.write(json.dumps({"level": level, "event": event, "message": message}, separators=(",", ":")) + "\n")


def test_trouble_counts_from_the_moment_on_at_which_the_book_was_opened(tmp_path: Path) -> None:
    """What a node said before the fault proves nothing about it."""
    log = tmp_path / "node.jsonl"
    write(log, "trouble", "committing results: before")
    book = Book(log)
    assert book.trouble("committing") == ""

    write(log, "trouble", "committer works again", level="info")
    write(log, "trouble", "committing results: refused")

    assert book.trouble("committing") == "committing results: refused"
    assert book.trouble("no such words") == ""


def test_a_line_that_is_still_being_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    """Half a line is left for the next look."""
    log = tmp_path / "node.jsonl"
    book = Book(log)
    whole = '{"level":"info","event":"worker_ended","message":"pid 7: killed"}\n'
    with log.open("a") as file:
        file.write(whole[:40])
        file.flush()
        assert not book.has("worker_ended")
        file.write(whole[40:])

    assert book.has("worker_ended", "pid 7")


def test_the_node_of_a_transactional_id_is_found_also_where_its_name_has_dots() -> None:
    """Names of nodes are often host names."""
    assert node_of("millstream.a.01ABC") == "a"
    assert node_of("millstream.host-3.example.org.01ABC") == "host-3.example.org"


def test_rounds_over_kafka_are_drawn_from_their_seed_and_have_every_kind() -> None:
    """The same seed gives the same steps; faults among several nodes lie between scaling out and back."""
    first, second = (list(itertools.islice(rounds(7, KINDS), 2)) for _ in range(2))

    assert first == second
    assert {step.kind for step in first[0]} == set(KINDS)
    assert [step.out for step in first[0] if step.kind == "scale"] == [True, False]
    assert first != list(itertools.islice(rounds(8, KINDS), 2))


def test_requests_over_kafka_are_drawn_from_their_seed() -> None:
    """The same seed gives the same requests on the same partitions, whatever portions they are taken in."""
    at_once, in_portions = Requests("a", 3), Requests("a", 3)

    assert at_once.take(300) == [*in_portions.take(100), *in_portions.take(200)]
    assert at_once.take(10) != Requests("a", 4).take(10)


def test_somebodys_cluster_is_spared_the_faults_of_brokers_and_proxies() -> None:
    """On a cluster that is not the harness's own no broker is killed and nothing stands before it."""
    kinds = kinds_of("", own_cluster=False)

    assert "node_kill" in kinds
    assert not {"broker_loss", "broker_restart", "commit_cut"} & set(kinds)
