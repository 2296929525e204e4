"""What a new release takes from the callers of the current one. Callers name a pipeline, not a release: they cannot know of it.

Breaking are a pipeline that is gone or of another kind, a parameter that is gone, one that is new and has no default, a parameter that
takes less than before, and an answer that may be what it could not be before. A training is answered with its run, version and
metrics, so its own result is nobody's business. Values are compared by the schemas of the manifest (`core.schema_fit`): what a
type refuses without saying so in its schema (a `__post_init__`, a date without a zone) is not seen.

An added member of an answer breaks nobody: readers of JSON pass over what they do not know, and a pipeline that could never say more
than it did would have to be renamed for every field. Where the old type forbids other members explicitly, callers were promised that
there are none, so there it breaks.

Compared is with the CURRENT release alone. A KEPT one goes on answering the models that it trained, with its own types, whatever is
deployed; what its callers lose when their tenant is trained again was told when it stopped being current, and would be told at
every deployment since, until nobody reads it. The models' names are in `core.model_names`.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from millstream_server.core.errors import Invalid
from millstream_server.core.release import Manifest, PackageState, PipelineSpec, Release
from millstream_server.core.schema_fit import Fit, Misfit, Why
from millstream_server.core.schema_words import Words

_MOST_TOLD = 50


class Break(msgspec.Struct, frozen=True):
    """One thing that callers lose. `path` is the JSON path in the parameters or the result; `was` and `becomes` schemas in words."""

    pipeline: str
    place: str
    path: str
    what: str
    was: str = ""
    becomes: str = ""

    @property
    def sentence(self) -> str:
        """`weigh: parameter $.x takes less: number before, integer now`."""
        told = [f"{self.was} before"] * bool(self.was) + [f"{self.becomes} now"] * bool(self.becomes)
        subject = " ".join(each for each in (self.place, self.path, self.what) if each)
        return f"{self.pipeline}: {subject}" + (f": {', '.join(told)}" if told else "")


def breaks(current: Manifest, new: Manifest) -> list[Break]:
    """Everything that a new release takes from callers of the current one, pipeline by pipeline; empty where nothing."""
    ours = {pipeline.name: pipeline for pipeline in new.pipelines}
    return [each for old in current.pipelines for each in _of_pipeline(old, ours.get(old.name))]


def breaks_of_deploying(state: PackageState, release: Release) -> list[Break]:
    """What callers would lose if a release took the place of the current one; nothing where none is current, or it is that one."""
    current = state.current
    return [] if current is None or current.build_id == release.build_id else breaks(current.manifest, release.manifest)


def check_compatible(state: PackageState, release: Release) -> None:
    """See that a release takes nothing from callers of the current one.

    Raises:
        Invalid: breaks_callers, with every break.
    """
    found = breaks_of_deploying(state, release)
    if not found:
        return
    assert state.current is not None
    before = previous_release(state)
    back = f"; as an emergency back to it: millstream deploy --rollback {state.package}" if _same(release, before) else ""
    raise Invalid(
        "breaks_callers",
        f"{release.label} would break callers of {state.current.label} in {_counted(found)}:\n" + "\n".join(lines(found)),
        where=release.label,
        mend=f"keep what callers use and give what changes a pipeline of another name beside it; "
        f"or, where no caller is left who uses it: millstream deploy {release.label} --allow-breaking{back}",
    )


def previous_release(state: PackageState) -> Release | None:
    """The release that was current before: of those that are kept the one that was deployed last. None where none is kept."""
    kept = [release for release in state.releases if release.status == "KEPT"]
    return kept[-1] if kept else None


def lines(found: list[Break]) -> list[str]:
    """The breaks as indented sentences, not more than a person reads."""
    told = [f"  {each.sentence}" for each in found[:_MOST_TOLD]]
    return [*told, f"  and {len(found) - _MOST_TOLD} more"] if len(found) > _MOST_TOLD else told


def _counted(found: list[Break]) -> str:
    return f"{len(found)} place{'s' * (len(found) != 1)}"


def _same(release: Release, other: Release | None) -> bool:
    return other is not None and release.build_id == other.build_id


def _of_pipeline(old: PipelineSpec, new: PipelineSpec | None) -> Iterator[Break]:
    if new is None:
        yield Break(old.name, "", "", "is gone")
        return
    if new.kind != old.kind:
        yield Break(old.name, "", "", "is of another kind", old.kind, new.kind)
        return
    taken = Fit(old.parameters, new.parameters).misfits(old.parameters, new.parameters)
    yield from (_of_parameter(old, new, each) for each in taken)
    if old.kind == "inference":
        given = Fit(new.returns, old.returns, answers=True).misfits(new.returns, old.returns)
        yield from (_of_result(old, new, each) for each in given)


def _of_parameter(old: PipelineSpec, new: PipelineSpec, misfit: Misfit) -> Break:
    match misfit.why:
        case Why.GONE:
            what = "is gone"
        case Why.NEEDED:
            what = "is new and has no default" if misfit.first is None else "has no default any more"
        case Why.TYPE:
            what = "takes less"
        case Why.UNKNOWN:
            what = _not_understood(misfit)
    was, becomes = _told(Words(old.parameters), misfit.first), _told(Words(new.parameters), misfit.second)
    if misfit.why is Why.NEEDED:
        was = ""
    return _break(old.name, "parameter", misfit.path, what, was, becomes)


def _of_result(old: PipelineSpec, new: PipelineSpec, misfit: Misfit) -> Break:
    match misfit.why:
        case Why.GONE if misfit.first is None:
            what = "is gone"
        case Why.GONE:
            what = "is new, where the old type forbids other members"
        case Why.NEEDED:
            what = "is gone" if misfit.first is None else "may be missing"
        case Why.TYPE:
            what = "may be another value"
        case Why.UNKNOWN:
            what = _not_understood(misfit)
    was, becomes = _told(Words(old.returns), misfit.second), _told(Words(new.returns), misfit.first)
    return _break(old.name, "result", misfit.path, what, was, becomes)


def _not_understood(misfit: Misfit) -> str:
    return f"cannot be compared, for {misfit.keyword} is not understood here, and it differs"


def _told(words: Words, schema: object) -> str:
    return "" if schema is None else words.of(schema)


def _break(pipeline: str, place: str, path: str, what: str, was: str, becomes: str) -> Break:
    if was and was == becomes:
        becomes = f"other limits or members of {becomes}"
    return Break(pipeline, place, path, what, was, becomes)
