"""The embedded log: topics, partitions, positions and transactions in one SQLite file, for one machine.

Called through the port `core.log.Log` by the node and the doors; made by `app`. Any number of processes may write and read at
once, one node at a time holds a group. Invariants: offsets of a partition are dense and in commit order; what `append` or
`commit` returned from is durable; records and positions of one commit are there together or not at all; a holder that was
replaced commits nothing. Why SQLite and why in batches: docs/decisions/0002-the-embedded-log-keeps-batches-in-sqlite.md.
"""

from millstream_server.adapters.sqlite_log.log import SqliteLog

__all__ = ["SqliteLog"]
