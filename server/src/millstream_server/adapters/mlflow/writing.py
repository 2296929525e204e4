"""What the helper writes through MLflow's client: the one module that imports mlflow.

Everything is found again by our tags before it is made, because whoever wrote it may have been killed in between. The alias is
written between two writes of the tag that says what we wrote, so that our own hand is known from others'.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TypeVar

from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException, RestException
from mlflow.tracking import MlflowClient

from millstream_server.adapters.mlflow.frames import Open
from millstream_server.core.mirror import (
    ALIAS,
    TAG_ALIAS,
    TAG_CHAMPION,
    TAG_MIRRORED,
    TAG_RUN,
    TAG_STORE,
    TAG_VERSION,
    TAG_WHO,
    MirroredModel,
    MirroredRun,
    MirroredVersion,
    Moved,
    Written,
)

T = TypeVar("T")

_AT_ONCE = 100
"""Parameters or tags that MLflow takes in one call (metrics: 1,000)."""
_MODELS_AT_ONCE = 1000
_NEVER = {
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "INVALID_STATE",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
    "RESOURCE_LIMIT_EXCEEDED",
}
"""MLflow's codes for what would be refused again; all else may pass."""


_GONE = {"INVALID_STATE", "RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
_LATER = {"UNAUTHENTICATED", "PERMISSION_DENIED", "REQUEST_LIMIT_EXCEEDED"}


class NotOurs(Exception):
    """A name in the registry belongs to another store."""


def told(error: Exception) -> str:
    """One line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:500]}" if text else type(error).__name__


def says_never(error: Exception) -> bool:
    """Whether the same question would be refused again."""
    if isinstance(error, RestException) and error.error_code in _LATER:
        return False
    return isinstance(error, NotOurs) or (isinstance(error, MlflowException) and error.error_code in _NEVER)


class Writer:
    """One MLflow, by its client; used by one thread."""

    def __init__(self, where: Open) -> None:
        self._store_id = where.store_id
        self._artifacts = where.artifacts
        if where.database and not os.path.exists(where.database):
            _make_database(where.database)
        self._client = MlflowClient(where.uri, where.uri)
        self._experiments: dict[str, str] = {}
        self._client.search_experiments(max_results=1)  # it answers, and takes us in

    # --- runs -----------------------------------------------------------------------------------------------------------

    def write_run(self, run: MirroredRun) -> None:
        """Write a run whole, unless it is there whole."""
        try:
            self._write_run(run)
        except MlflowException as error:
            if error.error_code not in _GONE or self._experiments.pop(run.experiment, None) is None:
                raise
            self._write_run(run)  # somebody deleted its experiment, which is looked up anew

    def _write_run(self, run: MirroredRun) -> None:
        experiment = self._experiment(run.experiment)
        found = self._find_run(experiment, run.run)
        if found is None:
            ours = {TAG_RUN: run.run, TAG_STORE: self._store_id}
            found = self._client.create_run(experiment, start_time=run.started_ms, tags=ours, run_name=run.name)
        elif found.data.tags.get(TAG_MIRRORED) == run.mark:
            return
        run_id = found.info.run_id
        kept = found.data.params
        params = [Param(name, value) for name, value in run.params.items() if name not in kept]  # they cannot be written twice
        metrics = [Metric(name, value, run.ended_ms, 0) for name, value in run.metrics.items()]  # the same point again is one point
        tags = [RunTag(name, value) for name, value in run.tags.items()]
        for some in _parts(params):
            self._client.log_batch(run_id, params=some)
        for some_metrics in _parts(metrics):
            self._client.log_batch(run_id, metrics=some_metrics)
        for some_tags in _parts(tags):
            self._client.log_batch(run_id, tags=some_tags)
        self._client.set_terminated(run_id, run.status, run.ended_ms)
        self._client.set_tag(run_id, TAG_MIRRORED, run.mark)

    def _experiment(self, name: str) -> str:
        known = self._experiments.get(name)
        if known is not None:
            return known
        found = self._client.get_experiment_by_name(name)
        if found is None:
            place = f"{self._artifacts}/{name}" if self._artifacts else None
            made = self._client.create_experiment(name, artifact_location=place, tags={TAG_STORE: self._store_id})
        else:
            made = found.experiment_id
            if found.lifecycle_stage != "active":  # somebody deleted it; a name that is gone could not be used again
                self._client.restore_experiment(made)
        self._experiments[name] = made
        return str(made)

    def _find_run(self, experiment: str, run: str):  # type: ignore[no-untyped-def]
        found = self._client.search_runs([experiment], f"tags.`{TAG_RUN}` = '{run}'", run_view_type=ViewType.ACTIVE_ONLY, max_results=1)
        return found[0] if found else None

    # --- models ---------------------------------------------------------------------------------------------------------

    def write_model(self, model: MirroredModel) -> Written:
        """Write a model's versions, tags and alias."""
        there = self._find_model(model.key) or self._client.create_registered_model(model.key, tags={TAG_STORE: self._store_id})
        owner = there.tags.get(TAG_STORE)
        if owner not in (None, self._store_id):
            raise NotOurs(f"the registered model {model.key} belongs to the store {owner}, this is {self._store_id}")
        numbers = self._write_versions(model)
        moved = self._alias_moved(there)
        if moved is not None and moved.wrote == model.champion and not model.insist and moved.version != model.champion:
            self._write_tags(there, model.tags)  # the alias waits to be taken in
            return Written()
        if model.champion and model.champion not in numbers:
            return Written(lacking=True)
        self._write_alias(there, model.champion, numbers)
        self._write_tags(there, model.tags | {TAG_CHAMPION: str(model.champion)})
        return Written(moved if moved is not None and moved.version != model.champion else None)

    def moved(self) -> list[Moved]:
        """Aliases of our models that have another number than we wrote."""
        query = f"tags.`{TAG_STORE}` = '{self._store_id}'"
        found, token = [], None
        while True:
            page = self._client.search_registered_models(query, max_results=_MODELS_AT_ONCE, page_token=token)
            found += [moved for each in page if (moved := self._alias_moved(each)) is not None]
            token = page.token
            if not token:
                return found

    def _find_model(self, key: str) -> RegisteredModel | None:
        try:
            return self._client.get_registered_model(key)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def _alias_moved(self, there: RegisteredModel) -> Moved | None:
        if TAG_ALIAS not in there.tags or TAG_CHAMPION not in there.tags:
            return None  # nothing was written by us yet, so nothing was moved
        now = str(there.aliases.get(ALIAS, ""))
        if now in there.tags[TAG_ALIAS].split() or (not now and not there.tags[TAG_ALIAS].strip()):
            return None
        wrote, who = int(there.tags[TAG_CHAMPION] or 0), there.tags.get(TAG_WHO, "")
        if not now:
            return Moved(there.name, wrote, 0, "no version", who)
        ours = self._client.get_model_version(there.name, now).tags.get(TAG_VERSION, "")
        return Moved(there.name, wrote, int(ours) if ours.isdecimal() else -1, f"version {now} there", who)

    def _write_versions(self, model: MirroredModel) -> dict[int, str]:
        """Make versions that are missing, and write the tags of the others; MLflow's number by ours, of all that have one."""
        there = {int(v.tags[TAG_VERSION]): v for v in self._versions(model.key) if v.tags.get(TAG_VERSION, "").isdecimal()}
        for version in model.versions:
            found = there.get(version.version)
            if found is None:
                there[version.version] = self._make_version(model.key, version)
                continue
            for name, value in version.tags.items():
                if found.tags.get(name) != value:
                    self._client.set_model_version_tag(model.key, found.version, name, value)
        return {number: str(version.version) for number, version in there.items()}

    def _versions(self, key: str) -> Iterator[ModelVersion]:
        token = None
        while True:
            page = self._client.search_model_versions(f"name = '{key}'", max_results=_AT_ONCE, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _make_version(self, key: str, version: MirroredVersion) -> ModelVersion:
        run = self._find_run(self._experiment(version.experiment), version.run) if version.run else None
        source = version.source
        run_id = "" if run is None else str(run.info.run_id)
        if version.folder and run is not None and os.path.isdir(version.folder):
            try:
                self._client.log_artifacts(run.info.run_id, version.folder, "model")
                source = f"{run.info.artifact_uri}/model"
            except ImportError as missing:  # a server that does not pass files on, and its store's library is not here
                print(f"files of {key} v{version.version} are only named, not copied: {missing}")  # noqa: T201 - its own log
        return self._client.create_model_version(key, source, run_id or None, tags=version.tags, await_creation_for=0)

    def _write_alias(self, there: RegisteredModel, champion: int, numbers: dict[int, str]) -> None:
        now, wanted = str(there.aliases.get(ALIAS, "")), numbers.get(champion, "")
        if now == wanted and there.tags.get(TAG_ALIAS) == wanted:
            return
        if now != wanted:
            self._client.set_registered_model_tag(there.name, TAG_ALIAS, f"{now} {wanted}".strip() or " ")
            if wanted:
                self._client.set_registered_model_alias(there.name, ALIAS, wanted)
            else:
                self._client.delete_registered_model_alias(there.name, ALIAS)
        self._client.set_registered_model_tag(there.name, TAG_ALIAS, wanted or " ")
        if TAG_WHO in there.tags:
            self._client.delete_registered_model_tag(there.name, TAG_WHO)

    def _write_tags(self, there: RegisteredModel, tags: dict[str, str]) -> None:
        for name, value in tags.items():
            if there.tags.get(name, "") == value:
                continue
            if value:
                self._client.set_registered_model_tag(there.name, name, value)
            else:
                self._client.delete_registered_model_tag(there.name, name)


def _make_database(path: str) -> None:
    """Make an empty database under another name first: whoever opened it half made, such as MLflow's page, would make the rest of it."""
    new = f"{path}.new"
    if os.path.exists(new):  # a helper was killed in the middle
        os.remove(new)
    client = MlflowClient(f"sqlite:///{new}", f"sqlite:///{new}")
    client.search_experiments(max_results=1)
    client.search_registered_models(max_results=1)
    os.replace(new, path)


def _parts(items: Iterable[T]) -> Iterator[list[T]]:
    every = list(items)
    for first in range(0, len(every), _AT_ONCE):
        yield every[first : first + _AT_ONCE]
