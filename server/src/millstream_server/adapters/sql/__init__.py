"""The store in a relational database: releases, models, runs, outbox, leases, nodes, through SQLAlchemy Core.

Called through the port `core.store.Store` by the node and the doors, from any thread; made by `app`. Only `sqlite.py` (the
embedded store) and `postgres.py` (one that nodes share) know a dialect; everything else is SQL that both run. Invariant: a method
is one transaction, so what it changes and the outbox rows that tell of it are there together or not at all.
"""

from millstream_server.adapters.sql.store import SqlStore

__all__ = ["SqlStore"]
