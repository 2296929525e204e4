"""The outbox: records that a transaction wants published, numbered in the order in which transactions commit.

The numbers come from one counter row. Its lock is held until the transaction ends, so a higher number never becomes visible
before a lower one, and a relay that reads up to a number has read all there will ever be up to it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, Row, delete, insert, select, update

from millstream_server.adapters.sql.tables import counter, model, outbox, package
from millstream_server.core.log import MODELS, RELEASES, Headers, Outgoing
from millstream_server.core.model import ModelState, decode_model, encode_model
from millstream_server.core.release import PackageState, decode_package, encode_package
from millstream_server.core.store import OutboxRow

encode_headers = msgspec.msgpack.Encoder().encode
decode_headers = msgspec.msgpack.Decoder(Headers).decode
_OUTBOX = counter.c.name == "outbox"


def model_record(state: ModelState) -> Outgoing:
    """How a model's state goes out."""
    return Outgoing(topic=MODELS, key=state.key.encode(), value=encode_model(state))


def package_record(state: PackageState) -> Outgoing:
    """How a package's state goes out."""
    return Outgoing(topic=RELEASES, key=state.package.encode(), value=encode_package(state))


def add(connection: Connection, records: Sequence[Outgoing]) -> int:
    """Write records in their order and return the last number; the last step of a transaction, since others wait from here on."""
    if not records:
        return last_number(connection)
    connection.execute(update(counter).where(_OUTBOX).values(last_number=counter.c.last_number + len(records)))
    last = last_number(connection)
    first = last - len(records) + 1
    connection.execute(insert(outbox), [_values(number, record) for number, record in enumerate(records, first)])
    return last


def last_number(connection: Connection) -> int:
    return int(connection.execute(select(counter.c.last_number).where(_OUTBOX)).scalar_one())


def after(connection: Connection, number: int, limit: int) -> list[OutboxRow]:
    rows = connection.execute(select(outbox).where(outbox.c.number > number).order_by(outbox.c.number).limit(limit))
    return [_row(row) for row in rows]


def trim(connection: Connection, up_to: int) -> None:
    connection.execute(delete(outbox).where(outbox.c.number <= up_to))


def republish(connection: Connection) -> int:
    """Write every package and model anew and return the last number."""
    # The counter first: whoever changes a state meanwhile waits for it, and so publishes its newer revision after ours.
    connection.execute(select(counter.c.last_number).where(_OUTBOX).with_for_update()).one()
    packages = connection.execute(select(package.c.state).order_by(package.c.package)).scalars()
    models = connection.execute(select(model.c.state).order_by(model.c.tenant, model.c.model)).scalars()
    records = [package_record(decode_package(body)) for body in packages]
    records += [model_record(decode_model(body)) for body in models]
    return add(connection, records)


def _values(number: int, record: Outgoing) -> dict[str, object]:
    return {
        "number": number,
        "topic": record.topic,
        "topic_partition": record.partition,
        "record_key": record.key,
        "record_value": record.value,
        "headers": encode_headers(record.headers),
    }


def _row(row: Row[tuple[object, ...]]) -> OutboxRow:
    return OutboxRow(
        number=row.number,
        record=Outgoing(
            topic=row.topic,
            value=row.record_value,
            key=row.record_key,
            headers=decode_headers(row.headers),
            partition=row.topic_partition,
        ),
    )
