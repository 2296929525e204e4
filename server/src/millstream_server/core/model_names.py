"""What the models' names in a release mean for callers: warnings for an author, never refusals, since a model may come from elsewhere.

A request finds its model by the name that its pipeline says (`core.routing`), so a name that is misspelt, changed or dropped is a valid
package, and every caller of it is refused. Asked by `build` and `deploy`.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from millstream_server.core.model import ModelState
from millstream_server.core.release import Manifest, Release
from millstream_server.core.routing import invocation

_MOST_NAMED = 5


class Caution(msgspec.Struct, frozen=True):
    """What will happen, and the step that avoids or mends it."""

    message: str
    mend: str


def never_trained(manifest: Manifest) -> list[Caution]:
    """Models that inferences of a package name and no training of it makes."""
    made = _trained(manifest)
    found = []
    for name in sorted({p.model for p in manifest.pipelines if p.kind == "inference" and p.model} - made):
        asking = ", ".join(p.name for p in manifest.pipelines if p.kind == "inference" and p.model == name)
        makes = f"its trainings make {', '.join(sorted(made))}" if made else "it has no training"
        message = f"no training of {manifest.package} makes the model {name}, which {asking} names; {makes}"
        mend = f"correct the name, or add @ms.training(model={_quoted(name)}); right as it is where another release trained it"
        found.append(Caution(message, mend))
    return found


def left_behind(current: Release, new: Release, models: Iterable[ModelState]) -> list[Caution]:
    """What a deployment takes from tenants who have models now: pipelines that ask for another model, models that nothing trains again."""
    tenants: dict[str, list[str]] = {}
    for state in models:
        champion = state.find(state.champion)
        if champion is not None and champion.package == new.manifest.package:
            tenants.setdefault(state.model, []).append(state.tenant)
    renamed = _renamed(current, new, tenants)
    told = {old for old, _, _ in renamed}
    found = [_renamed_warning(new, tenants, *each) for each in renamed]
    for name in sorted(set(tenants) - _trained(new.manifest) - told):
        message = f"no training of {new.label} makes the model {name}: {_spoken(tenants[name])} can keep but never renew it"
        found.append(Caution(message, f"add @ms.training(model={_quoted(name)}) to the package, or train under another name for good"))
    return found


def _renamed(current: Release, new: Release, tenants: dict[str, list[str]]) -> list[tuple[str, str, list[str]]]:
    """Old name, new name and the pipelines that changed from one to the other, where a tenant has the old and not the new."""
    before = {p.name: p.model for p in current.manifest.pipelines if p.kind == "inference"}
    changed: dict[tuple[str, str], list[str]] = {}
    for pipeline in new.manifest.pipelines:
        old = before.get(pipeline.name, "")
        if old and pipeline.model and pipeline.model != old and set(tenants.get(old, ())) - set(tenants.get(pipeline.model, ())):
            changed.setdefault((old, pipeline.model), []).append(pipeline.name)
    return [(old, name, pipelines) for (old, name), pipelines in changed.items()]


def _renamed_warning(new: Release, tenants: dict[str, list[str]], old: str, name: str, pipelines: list[str]) -> Caution:
    without = sorted(set(tenants[old]) - set(tenants.get(name, ())))
    asks = "asks" if len(pipelines) == 1 else "ask"
    message = (
        f"{', '.join(pipelines)} of {new.label} {asks} for the model {name}, not {old} as before: {_spoken(without)} will get no-model"
    )
    training = next((p for p in new.manifest.pipelines if p.kind == "training" and p.model == name), None)
    if training is None:
        return Caution(message, f"keep the name {old}, or add @ms.training(model={_quoted(name)})")
    return Caution(message, f"train each as soon as it is current: {invocation(training, without[0])}")


def _trained(manifest: Manifest) -> set[str]:
    return {p.model for p in manifest.pipelines if p.kind == "training" and p.model}


def _spoken(tenants: list[str]) -> str:
    """`tenant acme`, `2 tenants (acme, globex)`."""
    if len(tenants) == 1:
        return f"tenant {tenants[0]}"
    named = ", ".join(sorted(tenants)[:_MOST_NAMED]) + (", ..." if len(tenants) > _MOST_NAMED else "")
    return f"{len(tenants)} tenants ({named})"


def _quoted(name: str) -> str:
    return f'"{name}"'
