"""The rules of models: numbers are given once, states name live versions, and what travels as JSON can be read back."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream_server.core.model import (
    ArtifactManifest,
    FileEntry,
    ModelState,
    ModelVersion,
    SignedArtifact,
    add_version,
    decode_artifact_manifest,
    decode_model,
    decode_version,
    encode_artifact_manifest,
    encode_model,
    encode_version,
    keep_live,
    live_versions,
)

EMPTY = ModelState("acme", "anomaly")


def version(number: int, **fields: object) -> ModelVersion:
    made = ModelVersion(number, "anomaly", "1.0.0", "b", f"r{number}", 1, "acme.anomaly/r-1", SignedArtifact("{}", "s", "k"), 1_000)
    return msgspec.structs.replace(made, **fields)


def trained(times: int) -> ModelState:
    state = EMPTY
    for _ in range(times):
        state = add_version(state, version(state.next_version))
    return state


def test_a_model_without_versions_begins_at_one() -> None:
    """Its next version is 1, and it has no champion."""
    assert (EMPTY.next_version, EMPTY.champion, EMPTY.previous, live_versions(EMPTY)) == (1, 0, 0, frozenset())


def test_a_trained_version_becomes_champion() -> None:
    """The one before it is the previous one, and the revision is one higher."""
    first, second = trained(1), trained(2)

    assert (first.revision, first.champion, first.previous) == (1, 1, 0)
    assert (second.revision, second.champion, second.previous) == (2, 2, 1)
    assert live_versions(second) == {1, 2}


@given(st.integers(1, 40))
def test_a_state_names_two_versions_however_often_it_is_trained(times: int) -> None:
    """It stays small enough for a topic, and no number is ever given again."""
    state = trained(times)

    assert [v.version for v in state.versions] == [n for n in (times - 1, times) if n > 0]
    assert state.next_version == times + 1
    assert state.revision == times


def test_a_version_is_found_while_it_is_live() -> None:
    """What the state no longer names is in the store's lineage alone."""
    state = trained(3)

    assert state.find(3) is not None
    assert state.find(1) is None


def test_an_older_champion_keeps_its_version_and_the_numbers_go_on() -> None:
    """When the newest version is champion no more, it drops out of the state, and its number stays taken."""
    state = trained(3)
    back = keep_live(msgspec.structs.replace(state, champion=2, previous=0))

    assert [v.version for v in back.versions] == [2]
    assert (back.last_version, back.next_version) == (3, 4)


def test_keeping_live_versions_twice_changes_nothing() -> None:
    """It is a rule about the state, not a step of its history."""
    state = trained(5)

    assert keep_live(state) == state


def test_states_of_before_last_version_know_their_newest() -> None:
    """A state that was written without `last_version` counts from the versions that it names."""
    old = decode_model(encode_model(trained(3)).replace(b',"last_version":3', b""))

    assert old.last_version == 0
    assert old.next_version == 4
    assert keep_live(old).last_version == 3


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_metrics_that_json_cannot_carry_stay_out_of_the_state(value: float) -> None:
    """A follower of the topic can read every state; the run's own record keeps such a metric."""
    state = add_version(EMPTY, version(1, metrics={"loss": value, "rows": 288.0}))

    assert state.versions[0].metrics == {"rows": 288.0}
    assert decode_model(encode_model(state)) == state


def test_states_and_versions_are_read_back_as_written() -> None:
    """JSON loses nothing of them."""
    state = trained(2)

    assert decode_model(encode_model(state)) == state
    assert decode_version(encode_version(state.versions[0])) == state.versions[0]


def test_a_signed_manifest_has_one_spelling() -> None:
    """The same manifest is always the same bytes, so that one who signs it again signs the same."""
    manifest = ArtifactManifest("acme", "anomaly", 1, "r1", 1, "anomaly", "1.0.0", "b", 1_000, (FileEntry("model.skops", 6, "ab" * 32),))

    text = encode_artifact_manifest(manifest)

    assert decode_artifact_manifest(text) == manifest
    assert text == encode_artifact_manifest(decode_artifact_manifest(text))


def test_the_key_is_tenant_and_model() -> None:
    """As topics, registry, URLs and metrics spell it."""
    assert EMPTY.key == "acme.anomaly"
