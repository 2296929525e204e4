"""From a request's pipeline and tenant to the release and model version that must answer it, from memory alone.

Source: DESIGN §4.2. Pipeline name -> kind -> model (`tenant.model`) -> champion -> the release that trained it; a pipeline
without a model, and training, go to the current release. Names are looked up in the manifests that `ml.release` carries.
Used by intake on the node's loop; every change of a package or model clears the answers remembered here.
"""

from __future__ import annotations

import difflib

import msgspec

from millstream_server.core.model import ModelState, ModelVersion
from millstream_server.core.names import model_key
from millstream_server.core.release import PackageState, PipelineSpec, Release


class Route(msgspec.Struct, frozen=True, gc=False):
    """Where a request goes: the release and its pipeline, and for a model its key and version."""

    package: str
    release: Release
    pipeline: PipelineSpec
    model: str = ""
    version: int = 0


class Refusal(msgspec.Struct, frozen=True):
    """Why there is no route. `needs_fresh_view`: say it only after the followed topics were read to their present end."""

    code: str
    message: str
    mend: str = ""
    needs_fresh_view: bool = False
    status: str = "invalid"


class Catalog:
    """Releases and models as this node knows them; `serving` may hold a version back while its successor loads."""

    def __init__(self) -> None:
        self.packages: dict[str, PackageState] = {}
        self.models: dict[str, ModelState] = {}
        self.serving: dict[str, int] = {}
        self.unusable: dict[tuple[str, int], tuple[str, str]] = {}
        self._routes: dict[tuple[str, str], Route | Refusal] = {}
        self._versions: dict[tuple[str, int], ModelVersion] = {}

    def put_package(self, state: PackageState) -> bool:
        """Take in a package's state; false for one that is not newer."""
        known = self.packages.get(state.package)
        if known is not None and known.revision >= state.revision:
            return False
        self.packages[state.package] = state
        self._routes.clear()
        return True

    def put_model(self, state: ModelState) -> bool:
        """Take in a model's state; false for one that is not newer."""
        known = self.models.get(state.key)
        if known is not None and known.revision >= state.revision:
            return False
        self.models[state.key] = state
        self._versions.update(((state.key, v.version), v) for v in state.versions)
        self._routes.clear()
        return True

    def correct_package(self, state: PackageState) -> None:
        """Take in what the store says of a package, whatever was known: it is the truth, also where it is older."""
        self.packages[state.package] = state
        self._routes.clear()

    def correct_model(self, state: ModelState) -> None:
        """Take in what the store says of a model, whatever was known."""
        self.models.pop(state.key, None)
        self.put_model(state)

    def forget_package(self, package: str) -> bool:
        """The topic says that there is no such package any more; false where it was not known."""
        self._routes.clear()
        return self.packages.pop(package, None) is not None

    def forget_model(self, key: str) -> bool:
        """The topic says that there is no such model any more; false where it was not known."""
        self._routes.clear()
        self.serving.pop(key, None)
        return self.models.pop(key, None) is not None

    def serve(self, key: str, version: int) -> None:
        """From now on a model is answered by this version."""
        self.serving[key] = version
        self._routes.clear()

    def stop_serving(self, key: str) -> int:
        """From now on nobody answers for this model; the version that did, 0 where none."""
        self._routes.clear()
        return self.serving.pop(key, 0)

    def mark_unusable(self, key: str, version: int, code: str, reason: str) -> None:
        """A version's artifact is damaged or does not load: the last good one serves on."""
        self.unusable[(key, version)] = (code, reason)
        if self.serving.get(key) == version:
            del self.serving[key]
        self._routes.clear()

    def mark_usable(self, key: str, version: int) -> None:
        """A version's artifact is whole again."""
        self.unusable.pop((key, version), None)
        self._routes.clear()

    def resolve(self, pipeline: str, tenant: str) -> Route | Refusal:
        """Find where a request of a tenant to a pipeline goes; remembered until something changes."""
        key = (pipeline, tenant)
        found = self._routes.get(key)
        if found is None:
            found = self._resolve(pipeline, tenant)
            if len(self._routes) > 100_000:
                self._routes.clear()
            self._routes[key] = found
        return found

    def pipelines(self) -> list[str]:
        """Names of the pipelines that callers may use now."""
        return sorted({p.name for state in self.packages.values() if state.current for p in state.current.manifest.pipelines})

    def release(self, package: str, build_id: str) -> Release | None:
        state = self.packages.get(package)
        return state.by_build(build_id) if state else None

    def version(self, key: str, version: int) -> ModelVersion | None:
        """A version that this node has heard of; requests that were routed to it may still wait when it is live no more."""
        return self._versions.get((key, version))

    def version_to_serve(self, state: ModelState) -> ModelVersion | None:
        """The champion, or the previous champion where the champion is unusable."""
        for number in (state.champion, state.previous):
            if number and (state.key, number) not in self.unusable:
                version = state.find(number)
                if version is not None:
                    return version
        return None

    def _resolve(self, pipeline: str, tenant: str) -> Route | Refusal:
        found = self._find_pipeline(pipeline)
        if found is None:
            return self._unknown_pipeline(pipeline, tenant)
        package, current, spec = found
        if spec.kind == "training" or not spec.model:
            return Route(package, current, spec, model_key(tenant, spec.model) if spec.model else "")
        return self._model_route(package, spec, tenant)

    def _find_pipeline(self, name: str) -> tuple[str, Release, PipelineSpec] | None:
        for package, state in self.packages.items():
            for release in reversed(state.releases):
                if release.status != "CURRENT":
                    continue
                for spec in release.manifest.pipelines:
                    if spec.name == name:
                        return package, release, spec
        return self._find_in_kept(name)

    def _find_in_kept(self, name: str) -> tuple[str, Release, PipelineSpec] | None:
        """A pipeline that the current release dropped still answers for models of a kept release that has it."""
        for package, state in self.packages.items():
            for release in reversed(state.releases):
                if release.status != "KEPT":
                    continue
                for spec in release.manifest.pipelines:
                    if spec.name == name and spec.model and spec.kind == "inference":
                        return package, release, spec
        return None

    def _unknown_pipeline(self, name: str, tenant: str) -> Refusal:
        known = self.pipelines()
        near = near_misses(name, known)
        if near:
            found = self._find_pipeline(near[0])
            command = invocation(found[2], tenant) if found is not None else f"millstream invoke {near[0]} --tenant {tenant}"
            said, mend = f"; near misses: {', '.join(near)}", f"correct the name: {command}"
        elif known:
            said, mend = f"; known: {', '.join(known[:8])}", "see the pipelines: millstream releases list"
        else:
            said, mend = "; no release is deployed", "deploy one: millstream deploy NAME==VERSION"
        return Refusal("unknown_pipeline", f"no deployed release has a pipeline {name[:200]!r}{said}", mend, needs_fresh_view=True)

    def _model_route(self, package: str, spec: PipelineSpec, tenant: str) -> Route | Refusal:
        key = model_key(tenant, spec.model)
        state = self.models.get(key)
        if state is None or not state.champion:
            mend = self._training_mend(package, spec.model, tenant)
            if state is not None:
                mend += f"; or promote a version that was held back, if there is one: millstream models show {key}"
            return Refusal(
                "no_model",
                f"tenant {tenant} has no model {spec.model}",
                mend,
                needs_fresh_view=True,
            )
        # What is served may be older than the state's live versions: it answers until the champion is loaded.
        version = self.version(key, self.serving[key]) if key in self.serving else self.version_to_serve(state)
        if version is None:
            code, reason = self.unusable.get((key, state.champion), ("model_damaged", "its version is unknown"))
            return Refusal(
                code,
                f"model {key} v{state.champion} cannot be used: {reason}",
                self._training_mend(package, spec.model, tenant),
                status="failed",
            )
        release = self.release(version.package, version.build_id)
        if release is None:
            return Refusal(
                "release_unavailable",
                f"release {version.package}=={version.release}, which trained {key} v{version.version}, is not known here",
                f"millstream deploy {version.package}=={version.release}",
                needs_fresh_view=True,
                status="failed",
            )
        own = next((p for p in release.manifest.pipelines if p.name == spec.name), None)
        if own is None:
            return Refusal(
                "pipeline_not_in_release",
                f"{release.label}, which trained {key} v{version.version}, has no pipeline {spec.name}",
                self._training_mend(package, spec.model, tenant),
            )
        return Route(version.package, release, own, key, version.version)

    def _training_mend(self, package: str, model: str, tenant: str) -> str:
        state = self.packages.get(package)
        current = state.current if state else None
        for spec in current.manifest.pipelines if current else ():
            if spec.kind == "training" and spec.model == model:
                return f"train it: {invocation(spec, tenant)}"
        return "deploy a release with a training pipeline for it, and train it"


def near_misses(name: str, known: list[str]) -> list[str]:
    """The names that may have been meant, nearest first, at most three.

    Names of one package begin alike, which makes each of them look near: the whole must be close, or be all that stands behind the
    package's part.
    """
    swapped = [each for each in known if sorted(each) == sorted(name)]  # the commonest slip, and far by the measure in a short name
    close = list(dict.fromkeys([*swapped, *difflib.get_close_matches(name, known, n=3, cutoff=0.8)]))[:3]
    return close or [each for each in known if each.endswith((f"_{name}", f"-{name}"))][:3]


def invocation(spec: PipelineSpec, tenant: str) -> str:
    """The command that asks a pipeline: every parameter that it requires, with dots in the place of values."""
    required = spec.parameters.get("required")
    members = ", ".join(f'"{name}": ...' for name in required) if isinstance(required, list) else ""
    return f"millstream invoke {spec.name} --tenant {tenant}" + (f" --params '{{{members}}}'" if members else "")
