"""Packages and models: compare-and-set of the state that all nodes share, inside a transaction that the store opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace
from sqlalchemy import Connection, and_, insert, select, update

from millstream_server.adapters.sql.database import insert_unless_there
from millstream_server.adapters.sql.tables import model, model_version, package
from millstream_server.core.model import ModelState, ModelVersion, decode_model, decode_version, encode_model, encode_version, keep_live
from millstream_server.core.names import model_key
from millstream_server.core.release import PackageState, decode_package, encode_package


def save_package(connection: Connection, state: PackageState) -> bool:
    """Write a package's state over the revision before it; false if that is not what is stored."""
    values = {"revision": state.revision, "state": encode_package(state)}
    if state.revision == 1:
        return insert_unless_there(connection, insert(package).values(package=state.package, **values))
    before = and_(package.c.package == state.package, package.c.revision == state.revision - 1)
    return connection.execute(update(package).where(before).values(values)).rowcount == 1


def load_model(connection: Connection, tenant: str, name: str) -> ModelState | None:
    query = select(model.c.state).where(model.c.tenant == tenant, model.c.model == name)
    body = connection.execute(query).scalar_one_or_none()
    return None if body is None else decode_model(body)


def load_models(connection: Connection) -> list[ModelState]:
    query = select(model.c.state).order_by(model.c.tenant, model.c.model)
    return [decode_model(body) for body in connection.execute(query).scalars()]


def save_model(connection: Connection, state: ModelState) -> ModelState | None:
    """Write a model's state over the revision before it, and the rows of its new versions.

    Returns what was written, with live versions only; None if that revision is not the next one.
    """
    stored = load_model(connection, state.tenant, state.model)
    revision, last_version = (0, 0) if stored is None else (stored.revision, stored.newest_version)
    if state.revision != revision + 1:
        return None
    live = keep_live(state)
    values = {"revision": state.revision, "state": encode_model(live)}
    if stored is None:
        first = insert(model).values(tenant=state.tenant, model=state.model, **values)
        written = insert_unless_there(connection, first)
    else:
        this = and_(model.c.tenant == state.tenant, model.c.model == state.model, model.c.revision == revision)
        written = connection.execute(update(model).where(this).values(values)).rowcount == 1
    if not written:
        return None
    _add_versions(connection, state, last_version)
    return live


def bury_versions(connection: Connection, state: ModelState, deleted: Sequence[ModelVersion]) -> None:
    """Write over the rows of deleted versions: who deleted them stands in the lineage, and their numbers stay taken."""
    for version in deleted:
        if not version.is_deleted or state.find(version.version) is not None:
            raise ValueError(f"{state.key} v{version.version} cannot stand as deleted: it is not, or the state names it")
        this = and_(
            model_version.c.tenant == state.tenant, model_version.c.model == state.model, model_version.c.version == version.version
        )
        if connection.execute(update(model_version).where(this).values(body=encode_version(version))).rowcount != 1:
            raise ValueError(f"{state.key} has no version {version.version} to delete")


def load_versions(connection: Connection, tenant: str, name: str) -> list[tuple[str, ModelVersion]]:
    columns = model_version.c
    query = select(columns.tenant, columns.model, columns.body).order_by(columns.tenant, columns.model, columns.version)
    if tenant:
        query = query.where(columns.tenant == tenant)
    if name:
        query = query.where(columns.model == name)
    return [(model_key(row.tenant, row.model), decode_version(row.body)) for row in connection.execute(query)]


def outrun(connection: Connection, of_packages: Mapping[str, int], of_models: Mapping[str, tuple[int, int]]) -> int:
    """Raise revisions, and the numbers of versions, above those that are given; how many packages and models were behind."""
    raised = 0
    for body in connection.execute(select(package.c.state).order_by(package.c.package).with_for_update()).scalars().all():
        state = decode_package(body)
        if (highest := of_packages.get(state.package, 0)) >= state.revision:
            ahead = replace(state, revision=highest + 1)
            values = {"revision": ahead.revision, "state": encode_package(ahead)}
            connection.execute(update(package).where(package.c.package == state.package).values(values))
            raised += 1
    for body in connection.execute(select(model.c.state).order_by(model.c.tenant, model.c.model).with_for_update()).scalars().all():
        before = decode_model(body)
        revision, version = of_models.get(before.key, (0, 0))
        if revision >= before.revision:
            after = replace(before, revision=revision + 1, last_version=max(version, before.newest_version))
            this = and_(model.c.tenant == before.tenant, model.c.model == before.model)
            connection.execute(update(model).where(this).values(revision=after.revision, state=encode_model(after)))
            raised += 1
    return raised


def _add_versions(connection: Connection, state: ModelState, last_version: int) -> None:
    rows = [
        {"tenant": state.tenant, "model": state.model, "version": v.version, "run": v.run, "body": encode_version(v)}
        for v in state.versions
        if v.version > last_version
    ]
    if rows:
        connection.execute(insert(model_version), rows)
