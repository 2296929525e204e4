"""Transactions on one database, for readers and for writers, with its failures told in the platform's words."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Connection, Engine, Insert
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from millstream_server.adapters.sql.clock import Lead
from millstream_server.core.errors import Unavailable

T = TypeVar("T")

TRY_AGAIN_AFTER_S = (0.01, 0.03, 0.1, 0.3)
"""Waits before a write is tried again that the database undid for another's sake: long enough for the other to be done, and so
few that a thread which meets the same deadlock at every turn says so within seconds."""


@dataclass(frozen=True)
class Database:
    """One database and what is particular to its kind; methods may be called from any thread.

    Args:
        place: how errors name it (a file, or an address without its password).
        readers: connections whose transactions only read, and see one state of the database throughout.
        writers: connections whose transactions write.
        migrators: connections whose transactions change the schema, one process at a time.
        turn: held by a writing transaction of this process; for a database that lets one write at a time.
        types: how the words of a migration's SQL for types are spelled here.
        explain: turns a driver's failure into ours.
        undone: whether a failure means that the database undid the transaction to let another one through.
        lead: how far the database's clock is ahead of the caller's; may ask the database, and raise as any method.
        start: the command that starts a node on this store.
        elsewhere: what to do so that this process uses another store.
    """

    place: str
    readers: Engine
    writers: Engine
    migrators: Engine
    turn: AbstractContextManager[object]
    types: dict[str, str]
    explain: Callable[[DBAPIError], Unavailable]
    undone: Callable[[DBAPIError], bool]
    lead: Callable[[], Lead]
    start: str
    elsewhere: str

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database throughout."""
        with self._told(), self.readers.begin() as connection:
            yield connection

    def write(self, change: Callable[[Connection], T]) -> T:
        """Run a change in a transaction of its own: it is committed whole, or undone when anything is raised.

        `change` may be called more than once, each time in a new transaction. Where the connection is lost in the middle of the
        commit, nobody can say whether the change was made, and the error says so.
        """
        with self._told():
            for wait_s in TRY_AGAIN_AFTER_S:
                try:
                    return self._write_once(change)
                except DBAPIError as error:
                    if not self.undone(error):
                        raise
                time.sleep(wait_s * random.uniform(0.5, 1.5))  # noqa: S311  # two that met do not meet again in step
            return self._write_once(change)

    @contextmanager
    def migrate(self) -> Iterator[Connection]:
        """A transaction that changes the schema, alone among all processes that change it."""
        with self._told(), self.turn, self.migrators.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close all connections; readers and writers share one pool."""
        self.readers.dispose()
        self.migrators.dispose()

    def _write_once(self, change: Callable[[Connection], T]) -> T:
        committing = False
        try:
            with self.turn, self.writers.begin() as connection:
                made = change(connection)
                committing = True
            return made
        except DBAPIError as error:
            if committing and error.connection_invalidated:
                told = self.explain(error)
                doubt = f"{told.message}; it broke off at the commit, so it is not known whether this change was made; asking again is safe"
                raise Unavailable(told.code, doubt, where=told.where, mend=told.mend) from error
            raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            raise  # a rule of the schema is broken: no state of the disk but a defect of ours
        except DBAPIError as error:
            raise self.explain(error) from error
        except PoolTimeout as error:
            raise Unavailable("store_unavailable", f"all connections to the store were busy: {error}", where=self.place) from error


def insert_unless_there(connection: Connection, statement: Insert) -> bool:
    """Insert a row, or return false where its key is taken, also by a transaction that committed since we looked.

    In a savepoint, because a failed statement otherwise spoils the whole transaction on databases stricter than SQLite.
    """
    try:
        with connection.begin_nested():
            connection.execute(statement)
    except IntegrityError:
        return False
    return True
