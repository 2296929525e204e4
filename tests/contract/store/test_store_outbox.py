"""The contract of the store about the outbox: what it publishes, numbered in the order of commits."""

from __future__ import annotations

from millstream_server.core.log import MODELS, RELEASES, Outgoing
from millstream_server.core.release import PackageState
from millstream_server.core.run import Run, RunRequest
from millstream_server.core.store import OutboxRow, Store
from store_cases import answered, answers, new_run, package_state, request, running, submit, succeed


def test_an_empty_outbox_has_number_zero(store: Store) -> None:
    """Numbers start at 1, so nothing was numbered yet."""
    assert store.outbox_after(0, 10) == []
    assert store.last_outbox_number() == 0


def test_rows_are_read_in_order_from_a_number_on_up_to_a_limit(store: Store) -> None:
    """A relay reads what follows its position, oldest first, in pieces."""
    for revision in range(1, 6):
        store.save_package(package_state(revision))

    assert [row.number for row in store.outbox_after(0, 2)] == [1, 2]
    assert [row.number for row in store.outbox_after(2, 10)] == [3, 4, 5]
    assert store.outbox_after(5, 10) == []
    assert store.last_outbox_number() == 5


def test_a_record_comes_back_byte_for_byte(store: Store) -> None:
    """Topic, partition, key, value and headers of an answer are published as they were made, absent ones absent."""
    full = Outgoing("replies", b"\x00\xff", key=b"\xfe", headers=(("a", b"1"), ("a", b"\x00")), partition=7)
    bare = Outgoing("replies", None)

    def make(run: Run, request: RunRequest) -> list[Outgoing]:
        return [full, bare]

    store.submit_run(new_run("r1"), request(1), make, 1_000)
    store.cancel_run("r1", make, 2_000)

    assert store.outbox_after(0, 10) == [OutboxRow(1, full), OutboxRow(2, bare)]


def test_trimmed_rows_are_gone_and_their_numbers_are_not_given_again(store: Store) -> None:
    """Rows up to and including a number are forgotten; the next row goes on counting, also when none is left."""
    for revision in range(1, 4):
        store.save_package(package_state(revision))

    store.outbox_trim(2)
    assert [row.number for row in store.outbox_after(0, 10)] == [3]
    store.outbox_trim(3)
    store.save_package(package_state(4))

    assert [row.number for row in store.outbox_after(0, 10)] == [4]


def test_republishing_writes_the_present_state_of_everything(store: Store) -> None:
    """A log that was never used gets every package and model once, in its newest state, behind what is in the outbox."""
    store.save_package(package_state(1))
    store.save_package(PackageState("churn", 1))
    state = succeed(store, running(store, "r1"))
    last = store.last_outbox_number()

    number = store.republish_all()

    rows = store.outbox_after(last, 10)
    assert [(row.record.topic, row.record.key) for row in rows] == [(RELEASES, b"anomaly"), (RELEASES, b"churn"), (MODELS, b"acme.anomaly")]
    assert [row.number for row in rows] == [last + 1, last + 2, last + 3]
    assert number == store.last_outbox_number() == last + 3
    assert rows[2].record.value == next(row.record.value for row in store.outbox_after(0, 10) if row.record.topic == MODELS)
    assert state.revision == 1


def test_republishing_nothing_returns_the_last_number(store: Store) -> None:
    """A store without packages and models adds no row."""
    submit(store, "r1")
    store.cancel_run("r1", answers, 2_000)

    assert store.republish_all() == 1
    assert answered(store) == [("req-0", "r1 CANCELLED cancelled")]


def test_a_store_that_was_set_back_outruns_what_it_had_published(store: Store) -> None:
    """Revisions and numbers of versions go on behind the highest published ones; what is ahead already, and what is said, stays."""
    store.save_package(package_state(1))
    store.save_package(PackageState("churn", 1))
    before = succeed(store, running(store, "r1"))

    raised = store.outrun({"anomaly": 7, "churn": 0, "gone": 3}, {"acme.anomaly": (5, 4), "acme.gone": (9, 9)})

    assert raised == 2
    assert store.revisions().packages == {"anomaly": 8, "churn": 1}
    after = store.model("acme", "anomaly")
    assert after is not None
    assert (after.revision, after.champion, after.next_version) == (6, before.champion, 5)
    assert after.versions == before.versions
    assert store.outrun({"anomaly": 7}, {"acme.anomaly": (5, 4)}) == 0
    assert succeed(store, running(store, "r2", offset=1)).champion == 5
