"""What people change of a model: which version answers, which ones are kept at hand, and which are deleted.

Pure functions from state to state, as `add_version` is for trainings; the store writes the new state by compare-and-set. A function that
finds nothing to change returns the very object that it was given. A version comes from the store's lineage, since a state names live ones
only; who asks has seen that its files are whole.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from millstream_server.core.errors import Invalid
from millstream_server.core.model import ModelState, ModelVersion, keep_live

MOST_PINNED = 16
"""Pinned versions of one model: its state, which names them with their parameters, travels in one record."""


def promote(state: ModelState, version: ModelVersion, by: str, now_ms: int) -> ModelState:
    """Make a version champion, the one before it the previous one; the same object where it is champion already.

    Args:
        by: who does it, as USER@HOST.
        now_ms: Unix milliseconds.

    Raises:
        Invalid: version_deleted.
    """
    if version.version == state.champion:
        return state
    refuse_deleted(state, version)
    return keep_live(
        msgspec.structs.replace(
            _naming(state, version),
            revision=state.revision + 1,
            champion=version.version,
            previous=state.champion,
            promoted_by=by,
            promoted_ms=now_ms,
        )
    )


def import_version(state: ModelState, version: ModelVersion, by: str, *, champion: bool) -> ModelState:
    """Add a version that was made elsewhere; `champion` makes it that, else it stands in the lineage until somebody promotes it.

    Args:
        by: who imports it, as USER@HOST.
    """
    added = msgspec.structs.replace(
        state, revision=state.revision + 1, versions=(*state.versions, version), last_version=state.newest_version
    )
    if not champion:
        return added  # the store writes the lineage's row of every version that is new, and keeps live ones in the state
    return msgspec.structs.replace(added, champion=version.version, previous=state.champion, promoted_by=by, promoted_ms=version.created_ms)


def roll_back(state: ModelState, by: str, now_ms: int) -> ModelState:
    """Make the previous version champion again; a second rollback undoes the first.

    Raises:
        Invalid: no_previous.
    """
    version = state.find(state.previous) if state.previous else None
    if version is None:
        raise Invalid(
            "no_previous",
            f"{state.key} has no version before {_spoken_champion(state)}",
            mend=f"name the version that is to answer: millstream models promote {state.key} VERSION",
        )
    return promote(state, version, by, now_ms)


def pin(state: ModelState, version: ModelVersion) -> ModelState:
    """Keep a version at hand: its files cannot be deleted and its release stays installed, however often the model is trained.

    Raises:
        Invalid: version_deleted, too_many_pins.
    """
    if version.version in state.pins:
        return state
    refuse_deleted(state, version)
    if len(state.pins) >= MOST_PINNED:
        raise Invalid(
            "too_many_pins",
            f"{state.key} has {len(state.pins)} pinned versions, {MOST_PINNED} are the most",
            mend=f"unpin one that is needed no more: millstream models unpin {state.key} {state.pins[0]}",
        )
    pins = tuple(sorted({*state.pins, version.version}))
    return keep_live(msgspec.structs.replace(_naming(state, version), revision=state.revision + 1, pinned=pins))


def unpin(state: ModelState, version: int) -> ModelState:
    """Let a version go: it is kept no longer than others are; the same object where it is not pinned."""
    if version not in state.pins:
        return state
    pins = tuple(number for number in state.pins if number != version)
    return keep_live(msgspec.structs.replace(state, revision=state.revision + 1, pinned=pins or msgspec.UNSET))


def delete_version(state: ModelState, version: ModelVersion, by: str, now_ms: int) -> tuple[ModelState, tuple[ModelVersion, ...]]:
    """The state after a version is deleted, and what stands in its place in the lineage; nothing stands for one that was deleted before.

    Raises:
        Invalid: version_in_use, it is champion, previous or pinned.
    """
    _refuse_used(state, version.version)
    if version.is_deleted:
        return state, ()
    return msgspec.structs.replace(state, revision=state.revision + 1), (_tombstone(version, by, now_ms),)


def delete_model(state: ModelState, versions: Iterable[ModelVersion], by: str, now_ms: int) -> tuple[ModelState, tuple[ModelVersion, ...]]:
    """The state after all versions are deleted: nobody answers for the tenant, as before its first training; numbers go on.

    Raises:
        Invalid: version_in_use, a version is pinned.
    """
    if state.pins:
        pinned = ", ".join(f"v{number}" for number in state.pins)
        raise Invalid(
            "version_in_use",
            f"{state.key} has versions that somebody pinned: {pinned}",
            mend=f"unpin them first: {'; '.join(f'millstream models unpin {state.key} {number}' for number in state.pins)}",
        )
    deleted = tuple(_tombstone(version, by, now_ms) for version in versions if not version.is_deleted)
    if not deleted and not state.champion:
        return state, ()
    return ModelState(state.tenant, state.model, state.revision + 1, last_version=state.newest_version), deleted


def refuse_deleted(state: ModelState, version: ModelVersion) -> None:
    """See that a version has files still.

    Raises:
        Invalid: version_deleted, saying who deleted it.
    """
    if version.is_deleted:
        raise Invalid(
            "version_deleted",
            f"{state.key} v{version.version} was deleted by {version.deleted_by}",
            mend=f"choose another version: millstream models show {state.key}",
        )


def _refuse_used(state: ModelState, number: int) -> None:
    key = state.key
    if number == state.champion:
        use, mend = "is the champion: it answers", f"promote another first: millstream models promote {key} VERSION"
    elif number in state.pins:
        use, mend = "is pinned", f"unpin it first: millstream models unpin {key} {number}"
    elif number == state.previous:
        use = f"is the way back from v{state.champion}"
        mend = f"it can be deleted once another is the previous one, as after: millstream models promote {key} VERSION"
    else:
        return
    raise Invalid("version_in_use", f"{key} v{number} {use}, so it is not deleted", mend=mend)


def _tombstone(version: ModelVersion, by: str, now_ms: int) -> ModelVersion:
    return msgspec.structs.replace(version, deleted_by=by, deleted_ms=now_ms)


def _naming(state: ModelState, version: ModelVersion) -> ModelState:
    """The state with this version among those that it names."""
    if state.find(version.version) is not None:
        return state
    return msgspec.structs.replace(state, versions=(*state.versions, version), last_version=state.newest_version)


def _spoken_champion(state: ModelState) -> str:
    return f"v{state.champion}" if state.champion else "its first training"
