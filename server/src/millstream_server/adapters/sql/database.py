"""Transactions on one database, for readers and for writers, with its failures told in the platform's words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, Insert
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from millstream_server.core.errors import Unavailable


@dataclass(frozen=True)
class Database:
    """One database and what is particular to its kind; methods may be called from any thread.

    Args:
        place: how errors name it (a file, or an address without its password).
        readers: connections whose transactions only read.
        writers: connections whose transactions write from their start.
        turn: held by a writing transaction of this process; for a database that lets one write at a time.
        bytes_type: the column type of byte strings.
        explain: turns a driver's failure into ours.
    """

    place: str
    readers: Engine
    writers: Engine
    turn: AbstractContextManager[object]
    bytes_type: str
    explain: Callable[[DBAPIError], Unavailable]

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database throughout."""
        with self._told(), self.readers.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that commits when the block ends and is undone when anything is raised."""
        with self._told(), self.turn, self.writers.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close all connections; the engines share one pool."""
        self.readers.dispose()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            raise  # a rule of the schema is broken: no state of the disk but a defect of ours
        except DBAPIError as error:
            raise self.explain(error) from error
        except PoolTimeout as error:
            raise Unavailable("store_unavailable", f"all connections to the store were busy for 30 s: {error}", where=self.place) from error


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
