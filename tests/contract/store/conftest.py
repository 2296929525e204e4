"""Opens the store that the contract is about; a further database is one more line in `store_url`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from millstream_server.adapters.sql import SqlStore
from millstream_server.core.store import Store


@pytest.fixture(params=["sqlite"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database, one for each test."""
    return {"sqlite": f"sqlite:///{tmp_path / 'store.sqlite'}"}[request.param]


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
