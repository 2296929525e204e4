"""The tables as queries see them; `migrations` makes them, and a test holds the two together.

Words that SQL reserves (end, offset, key) are avoided, so that no dialect quotes them. Times are Unix milliseconds.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Integer, LargeBinary, MetaData, Table, Text

METADATA = MetaData()

meta = Table(
    "meta",
    METADATA,
    Column("store_id", Text, nullable=False),
    Column("schema_version", Integer, nullable=False),  # the oldest schema that a version must know to work on this store
)

migration = Table(
    "migration",
    METADATA,
    Column("step", Integer, primary_key=True),
    Column("version", Text, nullable=False),  # of the platform that made it
    Column("made_ms", BigInteger, nullable=False),
)

package = Table(
    "package",
    METADATA,
    Column("package", Text, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("state", LargeBinary, nullable=False),  # JSON of core.release.PackageState
)

model = Table(
    "model",
    METADATA,
    Column("tenant", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("state", LargeBinary, nullable=False),  # JSON of core.model.ModelState
)

model_version = Table(
    "model_version",
    METADATA,
    Column("tenant", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("run", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),  # JSON of core.model.ModelVersion
)

run = Table(
    "run",
    METADATA,
    Column("run", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("pipeline", Text, nullable=False),
    Column("package", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("idempotency_key", Text, nullable=False),
    Column("params", LargeBinary, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("started_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger, nullable=False),
    Column("deadline_ms", BigInteger, nullable=False),
    Column("waits_for", Text, nullable=False),
    Column("release", Text, nullable=False),
    Column("build_id", Text, nullable=False),
    Column("python", Text, nullable=False),
    Column("lock_sha256", Text, nullable=False),
    Column("lease_owner", Text, nullable=False),
    Column("lease_until_ms", BigInteger, nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    Column("model_version", BigInteger, nullable=False),
    Column("metrics", LargeBinary, nullable=False),  # msgpack, which carries NaN and infinity
    Column("steps", LargeBinary, nullable=False),  # msgpack
    Column("error_code", Text, nullable=False),
    Column("error_message", Text, nullable=False),
    Column("held_back", Text, nullable=False),
)

attempt = Table(
    "attempt",
    METADATA,
    Column("run", Text, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("node", Text, nullable=False),
    Column("release", Text, nullable=False),
    Column("build_id", Text, nullable=False),
    Column("started_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger, nullable=False),
    Column("ending", Text, nullable=False),
    Column("detail", Text, nullable=False),
)

run_request = Table(
    "run_request",
    METADATA,
    Column("log_id", Text, primary_key=True),
    Column("topic", Text, primary_key=True),
    Column("topic_partition", Integer, primary_key=True),
    Column("record_offset", BigInteger, primary_key=True),
    Column("run", Text, nullable=False),
    Column("append_ms", BigInteger, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("reply_to", Text, nullable=False),
    Column("record_key", LargeBinary),
    Column("record_value", LargeBinary, nullable=False),
    Column("headers", LargeBinary, nullable=False),  # msgpack
)

counter = Table(
    "counter",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("last_number", BigInteger, nullable=False),
)

outbox = Table(
    "outbox",
    METADATA,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("topic", Text, nullable=False),
    Column("topic_partition", Integer),
    Column("record_key", LargeBinary),
    Column("record_value", LargeBinary),
    Column("headers", LargeBinary, nullable=False),  # msgpack
)

notice = Table(
    "notice",
    METADATA,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", Text, primary_key=True),  # of core.store.Notice
    Column("subject", Text, primary_key=True),
)

lease = Table(
    "lease",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("until_ms", BigInteger, nullable=False),
)

node = Table(
    "node",
    METADATA,
    Column("node", Text, primary_key=True),
    Column("instance", Text, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    Column("status", LargeBinary, nullable=False),  # JSON of core.status.NodeStatus
)
