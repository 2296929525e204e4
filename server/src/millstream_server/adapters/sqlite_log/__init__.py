"""The embedded log: topics of partitions in one SQLite file, for one machine and no server.

Called through the port `core.log.Log`; opened by `app` in nodes and commands alike. Any number of processes append and read;
one node, the holder, consumes. Invariant: records and the positions that finish others become visible in one SQL transaction,
in the order of commits, without holes.
"""

from millstream_server.adapters.sqlite_log.log import SqliteLog

__all__ = ["SqliteLog"]
