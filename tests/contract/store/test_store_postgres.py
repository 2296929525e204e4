"""What only the shared store promises of its address, its schema and its connections."""

from __future__ import annotations

import shlex
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import closing
from urllib.parse import quote

import psycopg
import pytest
import store_children
from millstream_server.adapters.sql import SqlStore
from millstream_server.adapters.sql.postgres import POOL_MOST
from millstream_server.adapters.sql.postgres_failures import place_of
from millstream_server.core.errors import Invalid, Unavailable
from millstream_server.core.log import Outgoing
from millstream_server.core.run import Run, RunRequest
from millstream_server.core.store import RunEnd
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import text
from store_cases import answered, answers, running, submit
from store_children import hear, processes, started

from blackbox.postgres import ADMIN, PASSWORD, USER, Postgres

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND wait_event_type = 'Lock'"


@pytest.fixture
def store_kind() -> str:
    return "postgresql"


@pytest.fixture
def store_url(postgres: Postgres) -> Iterator[str]:
    """The address of a database of the test's own, whose settings and owner it may change."""
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


def refusal(url: str, *, create: bool = False) -> Unavailable:
    with pytest.raises(Unavailable) as refused:
        SqlStore.open(url, create=create).close()
    return refused.value


def name_of(url: str) -> str:
    """The name of the database in an address."""
    return url.rsplit("/", 1)[1]


# --- its address ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_an_address_is_libpqs_under_any_of_its_names(store_url: str, scheme: str) -> None:
    """What other tools call the same database opens it, further parameters of libpq included."""
    spelled = f"{scheme}{store_url[store_url.index(':') :]}?sslmode=disable&application_name=mine"

    SqlStore.open(spelled, create=True).close()

    SqlStore.open(store_url, create=False).close()


@pytest.mark.parametrize("secret", ["tops%zz", "tops/ecret", "tops@e:1/cret", "tops#ecret/"])
def test_an_address_that_cannot_be_read_is_refused_without_a_word_of_it(secret: str) -> None:
    """A password that was not quoted makes the address unreadable; the refusal shows no part of it, and says how to spell it."""
    with pytest.raises(Invalid) as refused:
        SqlStore.open(f"postgresql://me:{secret}@127.0.0.1:1/db", create=True)

    assert refused.value.code == "bad_config"
    assert "%40" in refused.value.mend
    assert not any(part in str(refused.value) for part in ("tops", "ecret", "zz", "e:1"))


@pytest.mark.parametrize(
    ("host", "spelled"),
    [("db.example.com", "db.example.com"), ("[::1]:5433", "[::1]:5433"), ("%2Frun%2Fpg:5433", "%2Frun%2Fpg:5433"), ("", "")],
)
def test_an_address_is_told_as_it_can_be_pasted(host: str, spelled: str) -> None:
    """Without password and parameters, and spelled so that other tools read it, an IPv6 address or a socket's folder too."""
    address = conninfo_to_dict(f"postgresql://me%40here:{quote(PASSWORD, safe='')}@{host}/my%20db?sslmode=disable")

    place = place_of({name: str(value) for name, value in address.items()})

    assert place == f"postgresql://me%40here@{spelled}/my%20db"
    assert conninfo_to_dict(place) == {name: value for name, value in address.items() if name not in ("password", "sslmode")}


def test_a_server_that_is_not_there_is_told_without_its_password(postgres: Postgres) -> None:
    """Whoever cannot connect hears where to, and can paste a command that tries the same; the password is shown nowhere."""
    began_s = time.monotonic()

    error = refusal(postgres.url("nowhere", port=1))

    assert time.monotonic() - began_s < 5
    assert error.code == "store_unavailable"
    assert error.where == f"postgresql://{USER}@127.0.0.1:1/nowhere"
    assert "Connection refused" in error.message
    assert shlex.split(error.mend)[1:] == ["psql", error.where, "-c", "SELECT 1"]
    told = "".join(traceback.format_exception(error))
    assert PASSWORD not in told
    assert quote(PASSWORD, safe="") not in told


@pytest.mark.parametrize(
    ("user", "password", "database", "said"),
    [
        (USER, "wrong", "postgres", "password authentication failed"),
        ("nobody", PASSWORD, "postgres", "password authentication failed"),
        (USER, PASSWORD, "nowhere", 'database "nowhere" does not exist'),
    ],
)
def test_a_server_that_refuses_is_told_in_its_words(postgres: Postgres, user: str, password: str, database: str, said: str) -> None:
    """A wrong password, user or database is named, and may be mended while a node tries on."""
    error = refusal(postgres.url(database, user=user, password=password))

    assert error.code == "store_unavailable"
    assert said in error.message
    assert PASSWORD not in str(error)


def test_of_several_hosts_the_one_that_takes_writes_is_used(postgres: Postgres, store_url: str) -> None:
    """An address may name all servers of a cluster; one that is down is passed over."""
    both = store_url.replace("@127.0.0.1:", "@127.0.0.1:1,127.0.0.1:")

    with closing(SqlStore.open(both, create=True)) as store:
        assert submit(store, "r1").created
        assert store._database.place == f"postgresql://{USER}@127.0.0.1:1,127.0.0.1:{postgres.port}/{name_of(store_url)}"


def test_a_database_that_cannot_hold_every_text_is_refused(postgres: Postgres) -> None:
    """A caller's id in any script must have its run: an encoding of one script is told at the start, not with the first such id."""
    latin = postgres.create_database(options="ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")

    error = refusal(latin, create=True)

    assert "LATIN1" in error.message
    assert "UTF8" in error.mend
    postgres.drop_database(latin)


def test_a_user_without_rights_is_told_which(postgres: Postgres, store_url: str) -> None:
    """A database that belongs to somebody else cannot be made a store, and the mend makes it one."""
    name = name_of(store_url)
    postgres.execute(f"ALTER DATABASE {name} OWNER TO postgres")
    postgres.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC", name)

    error = refusal(store_url, create=True)

    assert "permission denied for schema public" in error.message
    postgres.execute(error.mend.partition(": ")[2].replace("NAME", name).replace("USER", USER))
    SqlStore.open(store_url, create=True).close()


# --- its schema and connections -------------------------------------------------------------------------------------------


def test_text_is_ordered_by_its_bytes_whatever_the_database_says(store: SqlStore) -> None:
    """Lists come in one order from any server, and its C library may be upgraded under the indexes."""
    query = (
        "SELECT count(*), count(*) FILTER (WHERE collation_name = 'C') FROM information_schema.columns "
        "WHERE table_schema = 'public' AND data_type = 'text'"
    )
    with store._database.read() as connection:
        texts, ordered = connection.execute(text(query)).one()

    assert texts == ordered > 20


def test_a_transaction_keeps_its_promises_whatever_the_server_would_do(postgres: Postgres, store_url: str) -> None:
    """An operator's `synchronous_commit = off` would let a crash take back numbers that the outbox has published already."""
    postgres.execute(f"ALTER DATABASE {name_of(store_url)} SET synchronous_commit = off")
    postgres.execute(f"ALTER DATABASE {name_of(store_url)} SET default_transaction_isolation = 'serializable'")

    with closing(SqlStore.open(store_url, create=True)) as store:
        durable = store._database.write(lambda connection: connection.execute(text("SHOW synchronous_commit")).scalar())
        writes = store._database.write(lambda connection: connection.execute(text("SHOW transaction_isolation")).scalar())
        with store._database.read() as connection:
            reads = connection.execute(text("SHOW transaction_isolation")).scalar()

    assert (durable, writes, reads) == ("on", "read committed", "repeatable read")


def test_nodes_that_start_at_once_make_one_store_whatever_the_server_would_do(postgres: Postgres, store_url: str) -> None:
    """Whoever waited while another node made the schema sees what that made, also where transactions are to see one state."""
    postgres.execute(f"ALTER DATABASE {name_of(store_url)} SET default_transaction_isolation = 'serializable'")
    barrier = processes.Barrier(4)
    heard, told = processes.Pipe(duplex=False)
    nodes = [processes.Process(target=store_children.open_in_step, args=(store_url, barrier, told), daemon=True) for _ in range(4)]

    with started(*nodes):
        assert len({hear(heard) for _ in nodes}) == 1


def test_thirty_threads_share_eight_connections(postgres: Postgres, store: SqlStore, store_url: str) -> None:
    """However many threads ask at once, the server sees no more connections than the pool's most, and all are served."""
    barrier = threading.Barrier(30)
    done: list[bool] = []

    def work(number: int) -> None:
        barrier.wait()
        done.extend(submit(store, f"r{number}-{n}", number * 100 + n).created for n in range(5))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert done == [True] * 150
    ((connections,),) = postgres.execute(f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name_of(store_url)}'")
    assert 1 <= int(str(connections)) <= POOL_MOST


def test_a_change_that_met_a_deadlock_is_made_all_the_same(postgres: Postgres, store: SqlStore, store_url: str) -> None:
    """Somebody else's transaction that locks the same rows the other way round makes the server undo ours; it is tried again."""
    running(store, "r1")
    tries: list[str] = []
    made: list[object] = []

    def counted(run: Run, request: RunRequest) -> Sequence[Outgoing]:
        tries.append(run.run)
        return answers(run, request)

    with psycopg.connect(postgres.url(name_of(store_url), user=ADMIN)) as other:
        other.execute("SET deadlock_timeout = '1min'")  # so that the circle is found by ours, which is then undone
        other.execute("SELECT last_number FROM counter FOR UPDATE")
        ending = threading.Thread(target=lambda: made.append(store.end_attempt("r1", 1, RunEnd("failed"), counted, 3_000)))
        ending.start()
        while postgres.execute(WAITING.format(name_of(store_url))) == [(0,)]:
            time.sleep(0.02)  # it holds the run soon, and waits for the counter
        other.execute("SELECT run FROM run FOR UPDATE")
        other.rollback()
        ending.join()

    assert tries == ["r1", "r1"]
    assert made == ["FAILED"]
    assert answered(store) == [("req-0", "r1 FAILED")]
