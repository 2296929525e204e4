"""What PostgreSQL and its connections say when they fail, in the platform's words; the codes are those of its manual's appendix A."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from urllib.parse import quote

from sqlalchemy.exc import DBAPIError

from millstream_server.core.errors import Unavailable

UNDONE = frozenset({"40001", "40P01"})
"""serialization_failure, deadlock_detected: the transaction was undone to let another one through."""

READ_ONLY = "25006"
"""read_only_sql_transaction: the server is a standby, or was made one."""


def place_of(parameters: Mapping[str, str]) -> str:
    """The address that errors name, for people and for `psql`: no password, no further parameters."""
    hosts = parameters.get("host", parameters.get("hostaddr", "")).split(",")
    ports = parameters.get("port", "").split(",")
    if len(ports) < len(hosts):
        ports = ports[:1] * len(hosts)
    sides = ",".join(f"{_spelled(host)}:{port}" if port else _spelled(host) for host, port in zip(hosts, ports, strict=False))
    user = f"{quote(parameters['user'], safe='')}@" if "user" in parameters else ""
    return f"postgresql://{user}{sides}/{quote(parameters.get('dbname', ''), safe='')}"


def _spelled(host: str) -> str:
    """A host as a URL spells it: of IPv6, of a socket's folder, or a name."""
    return f"[{host}]" if ":" in host else quote(host, safe="")


def explain(error: DBAPIError, place: str) -> Unavailable:
    """Say in our words what the server, or the way to it, said."""
    said = re.sub(r"\s+", " ", str(error.orig)).strip()
    ask = f"psql {shlex.quote(place)} -c 'SELECT 1'"
    match getattr(error.orig, "sqlstate", None):
        case None:
            return Unavailable("store_unavailable", f"the store {place} cannot be reached: {said}", where=place, mend=f"see: {ask}")
        case "53100":
            return Unavailable(
                "no_space",
                f"the disk is full under the database {place}; nothing of this change was written",
                where=place,
                mend="free space on the database server",
            )
        case "53300":
            return Unavailable(
                "store_unavailable",
                f"the store {place} takes no more connections: {said}",
                where=place,
                mend="raise max_connections of the server; a node uses up to 8",
            )
        case code if code in UNDONE:
            message = f"the store {place} undid a change again and again, because others changed the same: {said}"
            return Unavailable("store_unavailable", message, where=place, mend="try again")
        case "55P03" | "57014" | "25P03" | "25P04":
            return Unavailable(
                "store_unavailable",
                f"the store {place} was too slow, or another process held a lock on it: {said}",
                where=place,
                mend=f"see who waits for whom: psql {shlex.quote(place)} -c 'TABLE pg_stat_activity'",
            )
        case "25006":
            return Unavailable(
                "store_unavailable",
                f"the store {place} is read-only: {said}",
                where=place,
                mend="name the server that takes writes, or several hosts, with --store",
            )
        case "42501":
            return Unavailable(
                "store_unavailable",
                f"the user of the store {place} lacks a right: {said}",
                where=place,
                mend="let that user own the database: ALTER DATABASE NAME OWNER TO USER",
            )
        case "42P01" | "42703":
            return Unavailable(
                "data_dir_unusable",
                f"the store {place} lacks what its schema has: {said}",
                where=place,
                mend="restore the database from a backup",
            )
        case code:
            return Unavailable("store_unavailable", f"the store {place} failed: {said} ({code})", where=place, mend=f"see: {ask}")
