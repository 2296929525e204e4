"""One room for each outside system, each behind a port of core: a database, a folder, a log, an index.

Made by `app`, called through the ports by node, environments and doors. Invariant: an adapter speaks to one system with that
system's library, translates its failures into `core.errors`, and imports no other adapter.
"""
