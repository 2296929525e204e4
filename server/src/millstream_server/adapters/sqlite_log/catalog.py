"""The topics of the log as this process knows them, and how topics are made."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence

import apsw
import msgspec

from millstream_server.adapters.sqlite_log.database import Guarded
from millstream_server.core.errors import Invalid, UnknownTopic
from millstream_server.core.log import TopicPartition, TopicSpec


class Topic(msgspec.Struct, frozen=True, array_like=True):
    """A topic; `parts` are the ids of its partitions in the file, by partition number."""

    id: int
    name: str
    retention_ms: int
    compacted: bool
    parts: tuple[int, ...]


class Catalog:
    """Topics by name, read again when an unknown one is asked for: they are only ever added."""

    def __init__(self, database: Guarded) -> None:
        self._database = database
        self._topics: dict[str, Topic] = {}
        self.turn = itertools.count(os.getpid())
        """For records without a key; starts apart in each process so that they do not all begin with partition 0."""

    def topic(self, name: str) -> Topic:
        """Return a topic.

        Raises:
            UnknownTopic, LogUnavailable
        """
        topic = self._topics.get(name)
        if topic is None:
            self.load()
            topic = self._topics.get(name)
        if topic is None:
            raise UnknownTopic(name)
        return topic

    def load(self) -> list[Topic]:
        """Read all topics, by name."""
        with self._database as database, database.told("reading the topics") as con:
            topics = read_topics(con)
        self._topics = {topic.name: topic for topic in topics}
        return topics

    def create(self, specs: Sequence[TopicSpec]) -> None:
        """Make what is missing and set the retention of what is there; takes the write lock only if something changes."""
        known = {topic.name: topic for topic in self.load()}
        if all(_fits(known.get(spec.name), spec) for spec in specs):
            return
        with self._database as database, database.transaction("making topics") as con:
            known = {topic.name: topic for topic in read_topics(con)}
            for spec in specs:
                if not _fits(known.get(spec.name), spec):
                    _put(con, spec, known.get(spec.name))
        self.load()


def partitions_of(topics: Sequence[Topic]) -> dict[int, TopicPartition]:
    """The partitions of topics by their id in the file."""
    return {part: TopicPartition(topic.name, number) for topic in topics for number, part in enumerate(topic.parts)}


def read_topics(con: apsw.Connection) -> list[Topic]:
    # One statement: between two of them another process may make a topic.
    rows = con.execute("""
        SELECT id, name, retention_ms, compacted, (SELECT json_group_array(tp ORDER BY p) FROM part WHERE part.topic = topic.id)
        FROM topic ORDER BY name""").fetchall()
    return msgspec.convert([(*row[:4], msgspec.json.decode(str(row[4]))) for row in rows], list[Topic], strict=False)


def _fits(topic: Topic | None, spec: TopicSpec) -> bool:
    """Whether nothing has to be changed.

    Raises:
        Invalid: what is there can never be what was asked for.
    """
    if spec.partitions < 1:
        raise Invalid("bad_config", f"the topic {spec.name} cannot have {spec.partitions} partitions: it needs at least 1", where=spec.name)
    if topic is None:
        return False
    if len(topic.parts) < spec.partitions:
        raise _refused(spec, f"it has {len(topic.parts)} partitions, {spec.partitions} were asked for")
    if topic.compacted != spec.compacted:
        raise _refused(spec, "it is compacted" if topic.compacted else "it is not compacted")
    return topic.retention_ms == spec.retention_ms


def _refused(spec: TopicSpec, why: str) -> Invalid:
    message = f"the topic {spec.name} exists and cannot be changed: {why}"
    return Invalid("bad_config", message, where=spec.name, mend="see: millstream topics list")


def _put(con: apsw.Connection, spec: TopicSpec, topic: Topic | None) -> None:
    if topic is not None:
        con.execute("UPDATE topic SET retention_ms = ? WHERE id = ?", (spec.retention_ms, topic.id))
        return
    row = (spec.name, spec.retention_ms, int(spec.compacted))
    number = con.execute("INSERT INTO topic (name, retention_ms, compacted) VALUES (?, ?, ?) RETURNING id", row).get
    con.executemany("INSERT INTO part (topic, p) VALUES (?, ?)", [(number, p) for p in range(spec.partitions)])
