"""The outbox: records that a transaction wants published, numbered in the order in which transactions commit.

The numbers come from one counter row. Its lock is held until the transaction ends, so a higher number never becomes visible
before a lower one, and a relay that reads up to a number has read all there will ever be up to it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, Row, delete, func, insert, select, update

from millstream_server.adapters.sql.database import insert_unless_there
from millstream_server.adapters.sql.tables import counter, model, notice, outbox, package
from millstream_server.core.log import MODELS, RELEASES, Headers, Outgoing
from millstream_server.core.model import ModelState, decode_model, encode_model
from millstream_server.core.release import PackageState, decode_package, encode_package
from millstream_server.core.store import KEPT_NOTICES, Notice, NoticeKind, OutboxRow

encode_headers = msgspec.msgpack.Encoder().encode
decode_headers = msgspec.msgpack.Decoder(Headers).decode
_OUTBOX = counter.c.name == "outbox"
_MIRROR = "mirror "
"""Before a target's id in the name of a counter: how far that mirror has read."""


def model_record(state: ModelState) -> Outgoing:
    """How a model's state goes out."""
    return Outgoing(topic=MODELS, key=state.key.encode(), value=encode_model(state))


def package_record(state: PackageState) -> Outgoing:
    """How a package's state goes out."""
    return Outgoing(topic=RELEASES, key=state.package.encode(), value=encode_package(state))


def add(connection: Connection, records: Sequence[Outgoing], *about: tuple[NoticeKind, str]) -> int:
    """Write records in their order and return the last number; the last step of a transaction, since others wait from here on.

    Args:
        connection: of the transaction.
        records: to be published.
        about: what they tell of, for the mirror, whose rows these are as well.
    """
    if not records:
        return last_number(connection)
    connection.execute(update(counter).where(_OUTBOX).values(last_number=counter.c.last_number + len(records)))
    last = last_number(connection)
    first = last - len(records) + 1
    connection.execute(insert(outbox), [_values(number, record) for number, record in enumerate(records, first)])
    if about:
        connection.execute(insert(notice), [{"number": last, "kind": kind, "subject": subject} for kind, subject in about])
    return last


def last_number(connection: Connection) -> int:
    return int(connection.execute(select(counter.c.last_number).where(_OUTBOX)).scalar_one())


def after(connection: Connection, number: int, limit: int) -> list[OutboxRow]:
    rows = connection.execute(select(outbox).where(outbox.c.number > number).order_by(outbox.c.number).limit(limit))
    return [_row(row) for row in rows]


def trim(connection: Connection, up_to: int) -> None:
    connection.execute(delete(outbox).where(outbox.c.number <= up_to))
    connection.execute(delete(notice).where(notice.c.number <= up_to - KEPT_NOTICES))


def notices_after(connection: Connection, number: int, limit: int) -> list[Notice]:
    columns = notice.c
    query = select(notice).where(columns.number > number).order_by(columns.number, columns.kind, columns.subject).limit(limit)
    return [Notice(row.number, row.kind, row.subject) for row in connection.execute(query)]


def count_notices(connection: Connection, number: int) -> int:
    return int(connection.execute(select(func.count()).where(notice.c.number > number)).scalar_one())


def mirror_position(connection: Connection, target: str) -> int | None:
    return connection.execute(select(counter.c.last_number).where(counter.c.name == _MIRROR + target)).scalar_one_or_none()


def set_mirror_position(connection: Connection, target: str, number: int) -> None:
    """Other mirrors' positions are forgotten: to them a way back goes through the whole state."""
    connection.execute(delete(counter).where(counter.c.name.startswith(_MIRROR), counter.c.name != _MIRROR + target))
    mine = update(counter).where(counter.c.name == _MIRROR + target).values(last_number=number)
    if not connection.execute(mine).rowcount:
        insert_unless_there(connection, insert(counter).values(name=_MIRROR + target, last_number=number))
    connection.execute(delete(notice).where(notice.c.number <= number))


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
