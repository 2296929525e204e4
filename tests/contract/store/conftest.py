"""Opens the store that the contract is about; a further database is one more kind, and a line in `store_cases.empty_database`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from millstream_server.adapters.sql import SqlStore
from millstream_server.core.store import Store
from store_cases import empty_database


@pytest.fixture(params=["sqlite"])
def store_kind(request: pytest.FixtureRequest) -> str:
    """The kinds of database through which every test of the contract goes."""
    kind: str = request.param
    return kind


@pytest.fixture
def store_url(store_kind: str, tmp_path: Path) -> str:
    """The address of an empty database, one for each test."""
    return empty_database(store_kind, tmp_path)


@pytest.fixture
def make_store(store_url: str) -> Iterator[Callable[[], Store]]:
    """Opens the test's store, as often as a test wants: each call is what another process would see."""
    opened: list[Store] = []

    def make() -> Store:
        opened.append(SqlStore.open(store_url, create=True))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def store(make_store: Callable[[], Store]) -> Store:
    return make_store()
