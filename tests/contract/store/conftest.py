"""Opens the store that the contract is about, over every kind of database; a further kind is one more of `KINDS` and its `databases`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from millstream_server.adapters.sql import SqlStore

from blackbox.postgres import USER, Postgres

KINDS = ("sqlite", "postgresql")

MakeDatabase = Callable[[], str]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The PostgreSQL server of this test process; a test that stops it starts it again."""
    with Postgres() as server:
        yield server


@pytest.fixture(params=KINDS)
def store_kind(request: pytest.FixtureRequest) -> str:
    """The kinds of database through which every test of the contract goes."""
    kind: str = request.param
    return kind


@pytest.fixture(scope="session")
def make_schema(postgres: Postgres) -> MakeDatabase:
    """Makes an empty schema at each call, in a database of this test process, and returns its address; quicker than a database."""
    database = postgres.create_database()
    numbers = itertools.count(1)

    def make() -> str:
        schema = f"s{next(numbers)}"
        postgres.execute(f"CREATE SCHEMA {schema} AUTHORIZATION {USER}", database.rsplit("/", 1)[1])
        return f"{database}?options=-csearch_path%3D{schema}"

    return make


@pytest.fixture
def make_database(store_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> MakeDatabase:
    """Makes an empty place for a store at each call, and returns its address."""
    if store_kind == "sqlite":
        numbers = itertools.count()
        return lambda: f"sqlite:///{tmp_path}/store-{next(numbers)}.sqlite"
    make: MakeDatabase = request.getfixturevalue("make_schema")
    return make


@pytest.fixture
def store_url(make_database: MakeDatabase) -> str:
    """The address of an empty place for a store, one for each test."""
    return make_database()


@pytest.fixture
def make_store(store_url: str) -> Iterator[Callable[[], SqlStore]]:
    """Opens the test's store, as often as a test wants: each call is what another process would see."""
    opened: list[SqlStore] = []

    def make() -> SqlStore:
        opened.append(SqlStore.open(store_url, create=True))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def store(make_store: Callable[[], SqlStore]) -> SqlStore:
    return make_store()
