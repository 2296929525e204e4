"""What only the embedded log promises: one file for many processes, that survives a full disk and says what is wrong with it."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from log_cases import GROUP, IN, OUT, STATE, Listener, commit, make_topics, numbered, read_all, topic_of, values
from log_children import hold_the_log_again_and_again
from millstream_server.adapters.sqlite_log import SqliteLog
from millstream_server.adapters.sqlite_log.schema import STEPS, prepare
from millstream_server.core.errors import Fenced, Invalid, LogUnavailable, MillstreamError, Unavailable
from millstream_server.core.log import CommitPosition, Outgoing, TopicPartition, TopicSpec

CHILD = Path(__file__).with_name("log_on_a_small_disk.py")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.sqlite"


def opened(path: Path, *, create: bool = True, busy_timeout_s: float = 5.0) -> SqliteLog:
    return SqliteLog.open(path, create=create, busy_timeout_s=busy_timeout_s)


def refusal(path: Path, *, create: bool = True) -> MillstreamError:
    with pytest.raises(MillstreamError) as refused:
        opened(path, create=create).close()
    return refused.value


# --- the group ----------------------------------------------------------------------------------------------------------


def test_a_new_consumer_takes_the_group_over(path: Path) -> None:
    """The old holder can commit nothing more, and its next polls say so; the new one reads from the committed positions."""
    log, other = opened(path), opened(path)
    make_topics(log)
    log.append(numbered(8, partition=0))
    listener = Listener()
    old = log.consumer(GROUP, [IN], listener)
    old.poll(8, 0)
    stale = old.snapshot()
    commit(log, [Outgoing(OUT, b"first")], [CommitPosition(IN, 0, 3)], stale)

    new = other.consumer(GROUP, [IN], Listener())
    with pytest.raises(Fenced):
        commit(log, [Outgoing(OUT, b"stale")], [CommitPosition(IN, 0, 8)], stale)

    assert values(read_all(new)) == [3, 4, 5, 6, 7]
    deadline_s = time.monotonic() + 5
    with pytest.raises(Fenced):
        while time.monotonic() < deadline_s:
            old.poll(1, 0.05)
    with pytest.raises(Fenced):
        old.poll(1, 0)
    assert listener.told == ["assign", "lost"]
    assert log.committed(GROUP, IN) == [CommitPosition(IN, 0, 3)]
    commit(log, [Outgoing(OUT, b"new")], [CommitPosition(IN, 0, 8)], new.snapshot())
    new.close()
    old.close()
    assert listener.told == ["assign", "lost"]
    for each in (log, other):
        each.close()


# --- opening ------------------------------------------------------------------------------------------------------------


def test_a_door_does_not_make_a_log(path: Path) -> None:
    """Without `create` a missing log is named, and no file is left."""
    error = refusal(path, create=False)

    assert isinstance(error, Unavailable)
    assert (error.code, error.where) == ("data_dir_unusable", str(path))
    assert not path.exists()


def test_a_log_of_a_newer_version_is_refused_and_left_alone(path: Path) -> None:
    """The error names both schemas; not a byte is changed."""
    opened(path).close()
    with closing(apsw.Connection(str(path))) as con:
        con.execute("PRAGMA user_version = 99")
    before = path.read_bytes()

    error = refusal(path)

    assert error.code == "data_dir_too_new"
    assert "99" in error.message
    assert path.read_bytes() == before


def test_an_older_log_is_brought_up_to_date_by_numbered_steps(path: Path) -> None:
    """Each missing step runs once, in order, with the records kept; a door leaves an older log as it is and says what to do."""
    with closing(opened(path)) as log:
        make_topics(log)
        log.append(numbered(10))
        log_id = log.log_id
    later = (*STEPS, "CREATE TABLE second (a INTEGER)", "ALTER TABLE second ADD COLUMN b INTEGER; INSERT INTO second VALUES (1, 2)")
    con = apsw.Connection(str(path))

    with pytest.raises(Unavailable, match="older version") as refused:
        prepare(con, path, create=False, steps=later)
    assert [prepare(con, path, create=True, steps=later) for _ in range(2)] == [log_id, log_id]

    assert "millstream up" in refused.value.mend
    assert con.execute("SELECT a, b FROM second").fetchall() == [(1, 2)]
    assert con.pragma("user_version") == len(later)
    con.close()
    assert refusal(path).code == "data_dir_too_new"


def test_a_step_that_fails_leaves_the_older_log_whole(path: Path) -> None:
    """A half migrated file does not exist."""
    opened(path).close()
    con = apsw.Connection(str(path))

    with pytest.raises(apsw.SQLError):
        prepare(con, path, create=True, steps=(*STEPS, "CREATE TABLE second (a INTEGER); INSERT INTO nowhere VALUES (1)"))

    con.close()
    opened(path).close()


@pytest.mark.parametrize("content", [b"no database at all, but long enough to be read as one" * 20, "other"])
def test_a_file_of_another_program_is_refused(path: Path, content: bytes | str) -> None:
    """Text or a foreign database: it is named, and not touched."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with closing(apsw.Connection(str(path))) as con:
            con.execute("CREATE TABLE theirs (a)")
    before = path.read_bytes()

    assert refusal(path).code == "data_dir_unusable"
    assert path.read_bytes() == before


def test_a_folder_that_is_missing_is_named(path: Path) -> None:
    """It is not made: who gave a wrong path should hear of it."""
    error = refusal(path.parent / "missing" / "log.sqlite")

    assert error.code == "data_dir_unusable"
    assert "missing" in error.where


@pytest.mark.parametrize("turn", range(5))
def test_who_makes_the_log_at_once_makes_one(path: Path, turn: int) -> None:
    """Ten threads that all find nothing end with the same id and the same topics."""
    ids: list[str] = []
    start = threading.Barrier(10)

    def make() -> None:
        start.wait()
        with closing(opened(path)) as log:
            make_topics(log)
            ids.append(log.log_id)

    threads = [threading.Thread(target=make) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(ids) == 10
    assert len(set(ids)) == 1
    with closing(opened(path, create=False)) as log:
        assert [topic.name for topic in log.topics()] == [IN, OUT, STATE]


def test_a_version_of_sqlite_that_damages_logs_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 3.51.3 two connections that write and checkpoint at once could corrupt the file."""
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.2")

    error = refusal(path)

    assert error.code == "data_dir_unusable"
    assert "3.51.3" in error.message
    assert not path.exists()


def test_the_file_is_what_its_readers_and_disks_need(path: Path) -> None:
    """Write-ahead log, pages of 8 KiB, space that can be given back."""
    opened(path).close()

    with closing(apsw.Connection(str(path))) as con:
        assert [con.pragma(name) for name in ("journal_mode", "page_size", "auto_vacuum")] == ["wal", 8192, 2]


# --- topics ---------------------------------------------------------------------------------------------------------------


def test_the_retention_of_a_topic_follows_the_setting(path: Path) -> None:
    """A changed setting takes effect at the next start."""
    with closing(opened(path)) as log:
        log.create_topics([TopicSpec(IN, 2, retention_ms=1000)])
        log.create_topics([TopicSpec(IN, 2, retention_ms=5000)])

        assert log.topics()[0].retention_ms == 5000


@pytest.mark.parametrize("spec", [TopicSpec(IN, 2, compacted=True), TopicSpec("x", 0)])
def test_a_topic_that_cannot_be_is_refused(path: Path, spec: TopicSpec) -> None:
    """A topic does not become compacted by being asked for again, and has at least one partition."""
    with closing(opened(path)) as log:
        log.create_topics([TopicSpec(IN, 2)])

        with pytest.raises(Invalid):
            log.create_topics([spec])

        assert [(topic.name, topic.compacted) for topic in log.topics()] == [(IN, False)]


def test_what_could_not_be_decoded_is_not_written(path: Path) -> None:
    """A record of wrong types would block its partition for every reader: it is refused as the fault that it is."""
    with closing(opened(path)) as log:
        make_topics(log)

        for wrong in (Outgoing(IN, "text"), Outgoing(IN, b"v", key="k"), Outgoing(IN, b"v", headers=(("a", "b"),))):  # type: ignore[arg-type]
            with pytest.raises(TypeError):
                log.append([*numbered(1), wrong])

        assert topic_of(log, IN) == []


# --- trouble --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("disk", ["full", "limited"])
def test_a_disk_that_takes_no_more_loses_nothing(disk: str, tmp_path: Path) -> None:
    """On a full file system, and on one that fails a write: what was acknowledged can be read meanwhile, what was refused is not
    there, and with space the same objects go on, the refused transaction included."""
    enter = ["unshare", "--user", "--map-root-user", "--mount"] if disk == "full" else []
    if enter and subprocess.run([*enter, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a small disk of their own")

    done = subprocess.run([*enter, sys.executable, str(CHILD), disk, str(tmp_path)], capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["codes"] == [{"full": "no_space", "limited": "log_unavailable"}[disk]]
    assert said["appended"] > 20
    assert said["full"] == {"results": 0, "positions": 0, "readable": True}
    assert said["after"] == {"next": True, "all": True, "results": 200, "positions": 1}
    assert said["integrity"] == "ok"


def test_a_write_that_fails_anywhere_leaves_nothing_of_its_transaction(tmp_path: Path) -> None:
    """The disk refuses each write of a transaction in turn: every time readers see all of it or nothing, and the log goes on."""
    done = subprocess.run([sys.executable, str(CHILD), "stepwise", str(tmp_path)], capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["failed"] > 10
    assert said["integrity"] == "ok"


def test_a_log_that_stays_locked_is_unavailable_and_then_goes_on(path: Path) -> None:
    """A write waits for its turn only so long; nothing of it was written, and it may be repeated."""
    with closing(opened(path, busy_timeout_s=0.2)) as log, closing(apsw.Connection(str(path))) as other:
        make_topics(log)
        committer = log.committer("c")
        committer.begin()
        committer.send(numbered(3, topic=OUT))
        other.execute("BEGIN IMMEDIATE")

        started_s = time.monotonic()
        for write in (lambda: log.append(numbered(1)), lambda: committer.commit(GROUP, [CommitPosition(IN, 0, 1)], None)):
            with pytest.raises(LogUnavailable, match="locked") as refused:
                write()
            assert (refused.value.code, refused.value.indeterminate) == ("log_unavailable", False)
        assert 0.3 < time.monotonic() - started_s < 3
        assert topic_of(log, OUT) == []

        other.execute("ROLLBACK")
        committer.commit(GROUP, [CommitPosition(IN, 0, 1)], None)
        assert len(topic_of(log, OUT)) == 3
        committer.close()


def test_writers_in_a_queue_wait_for_each_other(path: Path) -> None:
    """A writer that holds the log for a moment makes the next one wait, not fail."""
    with closing(opened(path)) as log, closing(apsw.Connection(str(path))) as other:
        make_topics(log)
        other.execute("BEGIN IMMEDIATE")
        later = threading.Timer(0.1, other.execute, args=("ROLLBACK",))
        later.start()

        log.append(numbered(1))

        later.join()
        assert len(topic_of(log, IN)) == 1


def test_who_waits_for_a_writer_is_not_overtaken_again_and_again(path: Path) -> None:
    """Beside another process that writes nearly all the time, an append gets its turn about as often as that one."""
    with closing(opened(path)) as log:
        make_topics(log)
        theirs, ours = multiprocessing.get_context("spawn").Pipe()
        other = multiprocessing.get_context("spawn").Process(target=hold_the_log_again_and_again, args=(str(path), 0.002, 1_000, theirs))
        other.start()
        ours.recv()
        turns = 0
        while not ours.poll():
            log.append(numbered(1))
            turns += 1
            time.sleep(0.003)  # so that the other one is met while it holds the log
        other.join(30)

    assert turns > 250


def test_a_log_can_be_used_from_many_threads(path: Path) -> None:
    """Appends, looks and readers of one object at once."""
    with closing(opened(path)) as log:
        make_topics(log)

        def work(name: int) -> None:
            for number in range(30):
                log.append([Outgoing(IN, str(number).encode(), key=str(name).encode())])
                log.watermarks(IN)
                log.committed(GROUP, IN)
                log.topics()

        threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(topic_of(log, IN)) == 180


# --- bells ----------------------------------------------------------------------------------------------------------------


def test_the_bell_of_a_dead_process_is_taken_down(path: Path) -> None:
    """The next writer removes it; the bells of the living stay, and go with their readers."""
    with closing(opened(path)) as log:
        make_topics(log)
        topic_ids = {topic.name: number for number, topic in enumerate(log.topics(), 1)}
        dead = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        dead.bind(str(path.parent / "bells" / f"1-dead-{topic_ids[IN]}"))
        dead.close()
        reader = log.reader([IN])
        assert len(os.listdir(path.parent / "bells")) == 2

        log.append(numbered(1))
        (left,) = os.listdir(path.parent / "bells")
        reader.close()

        assert left.startswith(f"{os.getpid()}-")
        assert os.listdir(path.parent / "bells") == []


def test_a_reader_without_a_bell_still_hears(path: Path) -> None:
    """Rings are only a faster way: without them a reader looks 5 times a second."""
    with closing(opened(path)) as log:
        make_topics(log)
        reader = log.reader([IN], from_end=True)
        for name in os.listdir(path.parent / "bells"):
            (path.parent / "bells" / name).unlink()
        later = threading.Timer(0.1, log.append, args=(numbered(1),))
        later.start()

        started_s = time.monotonic()

        assert len(reader.poll(10, 5)) == 1
        assert time.monotonic() - started_s < 2
        later.join()
        reader.close()


def test_a_data_directory_may_lie_deep(tmp_path: Path) -> None:
    """A socket's address holds 107 bytes; a folder's path may be longer."""
    deep = tmp_path / ("folder-" * 15) / ("folder-" * 15)
    deep.mkdir(parents=True)
    with closing(opened(deep / "log.sqlite")) as log:
        make_topics(log)
        reader = log.reader([IN], from_end=True)
        later = threading.Timer(0.05, log.append, args=(numbered(1),))
        later.start()

        assert values(reader.poll(10, 5)) == [0]
        assert len(os.listdir(deep / "bells")) == 1
        later.join()
        reader.close()


def test_who_reads_other_topics_is_left_alone(path: Path) -> None:
    """Results do not wake the poller: with 200 of them it sleeps through."""
    with closing(opened(path)) as log:
        make_topics(log)
        consumer = log.consumer(GROUP, [IN], Listener())
        consumer.poll(1, 0)
        busy = threading.Thread(target=lambda: [log.append(numbered(1, topic=OUT)) for _ in range(200)])
        busy.start()

        before_s = time.thread_time()
        assert consumer.poll(1, 1.0) == []
        spent_s = time.thread_time() - before_s

        busy.join()
        assert spent_s < 0.02
        consumer.close()


# --- space and storage ------------------------------------------------------------------------------------------------------


def test_space_is_given_back_to_the_disk(path: Path) -> None:
    """After retention has removed most records the file is small again, and so is the write-ahead log."""
    with closing(opened(path)) as log:
        log.create_topics([TopicSpec(OUT, 2)])
        for _ in range(40):
            log.append([Outgoing(OUT, b"x" * 400_000, partition=0)])
        log.maintain()
        large_bytes = path.stat().st_size
        log.create_topics([TopicSpec(OUT, 2, retention_ms=1)])
        time.sleep(0.01)

        log.maintain()

        assert large_bytes > 16_000_000
        assert path.stat().st_size < 8_000_000
        assert path.with_name("log.sqlite-wal").stat().st_size == 0


def test_the_write_ahead_log_does_not_grow_without_end(path: Path) -> None:
    """Commits copy it into the file as they go, also while somebody reads; with nobody running upkeep."""
    with closing(SqliteLog.open(path, create=True, synchronous="NORMAL")) as log:
        make_topics(log)
        reader = log.reader([IN])
        for _ in range(60):
            log.append([Outgoing(IN, b"x" * 900_000, partition=0)])
            reader.poll(10, 0)

        assert path.with_name("log.sqlite-wal").stat().st_size < 40_000_000
        reader.close()


def test_a_batch_costs_few_steps_however_many_partitions_it_touches(path: Path) -> None:
    """Every SQL step gives up the interpreter lock, so 500 results over 12 partitions with their positions take a fixed few."""
    with closing(opened(path)) as log:
        log.create_topics([TopicSpec(IN, 12), TopicSpec(OUT, 12)])
        consumer = log.consumer(GROUP, [IN], Listener())
        consumer.poll(1, 0)
        committer = log.committer("c")
        statements: list[str] = []

        def count(_: apsw.Cursor, sql: str, __: object) -> bool:
            statements.append(sql)
            return True

        committer._database.open().exec_trace = count
        consumer._feed._database.open().exec_trace = count
        log.append([Outgoing(IN, b"v", partition=number % 12) for number in range(500)])
        assert len(consumer.poll(500, 1)) == 500
        polled = len(statements)
        committer.begin()
        committer.send([Outgoing(OUT, b"v", partition=number % 12) for number in range(500)])
        committer.commit(GROUP, [CommitPosition(IN, number, 42, "rAQE") for number in range(12)], consumer.snapshot())

        assert polled <= 5
        assert len(statements) - polled <= 7
        committer.close()
        consumer.close()


def test_many_small_transactions_are_read_as_fast_as_few_large_ones_are_written(path: Path) -> None:
    """A partition of 3,000 single records is read from any offset, in order, with the rest of the log around it."""
    with closing(SqliteLog.open(path, create=True, synchronous="NORMAL")) as log:
        make_topics(log)
        for number in range(3_000):
            log.append(numbered(1, start=number, partition=1))
        reader = log.reader([IN], start={TopicPartition(IN, 1): 1_234})

        started_s = time.thread_time()
        found = read_all(reader)
        spent_s = time.thread_time() - started_s

        assert values(found) == list(range(1_234, 3_000))
        assert spent_s < 0.5
        reader.close()


@pytest.mark.parametrize("do", ["append", "commit"])
def test_an_error_in_the_middle_of_a_write_leaves_nothing_and_harms_nothing(path: Path, do: str) -> None:
    """Whatever statement SQLite refuses: the transaction is undone, and the next write finds the log as it was."""
    with closing(opened(path)) as log:
        make_topics(log)
        log.append(numbered(4))
        with closing(apsw.Connection(str(path))) as con:
            con.execute("CREATE TRIGGER fault BEFORE UPDATE ON part BEGIN SELECT raise(ABORT, 'planted'); END")
        write: dict[str, Callable[[], object]] = {
            "append": lambda: log.append(numbered(4, start=4)),
            "commit": lambda: commit(log, numbered(4, start=4), [CommitPosition(IN, 0, 1)]),
        }

        with pytest.raises(LogUnavailable, match="planted"):
            write[do]()
        assert sorted(values(topic_of(log, IN))) == [0, 1, 2, 3]

        with closing(apsw.Connection(str(path))) as con:
            con.execute("DROP TRIGGER fault")
        write[do]()
        assert sorted(values(topic_of(log, IN))) == list(range(8))
        assert [record.offset for record in topic_of(log, IN)].count(1) == 4
