"""What every release index promises: versions never change, and no wheel is handed out whose bytes are not the published ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from millstream_server.core.errors import Invalid
from millstream_server.core.index import ReleaseIndex

MakeIndex = Callable[[], ReleaseIndex]
MakeWheel = Callable[..., Path]


def test_a_published_wheel_is_fetched_with_its_bytes_and_hash(index: ReleaseIndex, make_wheel: MakeWheel) -> None:
    """What goes in comes out, and the entry's hash is that of the bytes."""
    wheel = make_wheel("shop", "1.0.0")

    assert index.publish(wheel)

    path, entry = index.fetch("shop", "1.0.0")
    assert path.read_bytes() == wheel.read_bytes()
    assert (entry.package, entry.version, entry.filename) == ("shop", "1.0.0", wheel.name)
    assert entry.sha256 == hashlib.sha256(wheel.read_bytes()).hexdigest()


def test_publishing_the_same_file_again_changes_nothing(index: ReleaseIndex, make_wheel: MakeWheel) -> None:
    """A publish that is repeated, after a lost answer for example, says that the file was there."""
    wheel = make_wheel("shop", "1.0.0")
    index.publish(wheel)

    assert not index.publish(wheel)
    assert len(index.entries()) == 1


def test_a_version_never_changes(index: ReleaseIndex, make_wheel: MakeWheel) -> None:
    """Other contents under a published version are refused, and the first ones stay."""
    first = make_wheel("shop", "1.0.0", says="first")
    index.publish(first)

    with pytest.raises(Invalid) as refused:
        index.publish(make_wheel("shop", "1.0.0", says="second"))

    assert refused.value.code == "already_published"
    assert index.fetch("shop", "1.0.0")[0].read_bytes() == first.read_bytes()


def test_a_version_is_published_once_whatever_its_tags(index: ReleaseIndex, make_wheel: MakeWheel) -> None:
    """A second wheel of the version for another Python would make the release ambiguous, so it is refused."""
    index.publish(make_wheel("shop", "1.0.0"))

    with pytest.raises(Invalid) as refused:
        index.publish(make_wheel("shop", "1.0.0", tags="cp312-cp312-linux_x86_64"))

    assert refused.value.code == "already_published"


def test_versions_are_the_same_however_they_are_spelled(index: ReleaseIndex, make_wheel: MakeWheel) -> None:
    """1.0 and 1.0.0 are one version (PEP 440), so either finds the wheel and the other cannot be published beside it."""
    index.publish(make_wheel("shop", "1.0"))

    assert index.fetch("shop", "1.0.0")[1].version == "1.0"
    with pytest.raises(Invalid):
        index.publish(make_wheel("shop", "1.0.0", says="other"))


def test_entries_are_listed_by_package_with_the_newest_version_last(index: ReleaseIndex, make_wheel: MakeWheel) -> None:
    """Versions are ordered as PEP 440 orders them, not as text."""
    for name, version in (("shop", "1.10.0"), ("shop", "1.9.0"), ("shop", "1.9.0rc1"), ("barn", "2.0")):
        index.publish(make_wheel(name, version))

    assert [(entry.package, entry.version) for entry in index.entries()] == [
        ("barn", "2.0"),
        ("shop", "1.9.0rc1"),
        ("shop", "1.9.0"),
        ("shop", "1.10.0"),
    ]
    assert [entry.version for entry in index.entries("shop")] == ["1.9.0rc1", "1.9.0", "1.10.0"]


def test_package_names_are_normalised(index: ReleaseIndex, make_wheel: MakeWheel) -> None:
    """Dashes, underscores and case do not part names (PEP 503)."""
    index.publish(make_wheel("Corner_Shop", "1.0.0"))

    assert index.fetch("corner-shop", "1.0.0")[1].package == "corner-shop"
    assert index.entries("CORNER-SHOP")


def test_what_is_not_published_is_told_with_the_versions_that_are(index: ReleaseIndex, make_wheel: MakeWheel) -> None:
    """The message of a mistyped version names the right ones."""
    index.publish(make_wheel("shop", "1.0.0"))
    index.publish(make_wheel("shop", "1.1.0"))

    with pytest.raises(Invalid, match=r"1\.0\.0, 1\.1\.0") as refused:
        index.fetch("shop", "2.0.0")

    assert refused.value.code == "not_published"


def test_an_empty_index_has_no_entries(index: ReleaseIndex) -> None:
    """Reading before the first publish is no error."""
    assert index.entries() == []
    with pytest.raises(Invalid, match="no version"):
        index.fetch("shop", "1.0.0")


def test_another_process_sees_what_was_published(make_index: MakeIndex, make_wheel: MakeWheel) -> None:
    """The index is on disk, not in the object."""
    make_index().publish(make_wheel("shop", "1.0.0"))

    assert make_index().fetch("shop", "1.0.0")[1].version == "1.0.0"


def test_of_many_publishers_of_one_version_one_wins(make_index: MakeIndex, make_wheel: MakeWheel) -> None:
    """Publishing at the same time never mixes two wheels, and all but one are told."""
    wheels = [make_wheel("shop", "1.0.0", says=f"number {number}") for number in range(8)]

    def publish(wheel: Path) -> bool:
        try:
            return make_index().publish(wheel)
        except Invalid as error:
            return error.code != "already_published"

    with ThreadPoolExecutor(8) as pool:
        won = [wheel for wheel, published in zip(wheels, pool.map(publish, wheels), strict=True) if published]

    assert len(won) == 1
    assert make_index().fetch("shop", "1.0.0")[0].read_bytes() == won[0].read_bytes()


def test_what_is_no_wheel_is_refused(index: ReleaseIndex, tmp_path: Path) -> None:
    """A file whose name says no package and version cannot be looked up, so it is not taken in."""
    path = tmp_path / "shop.whl"
    path.write_bytes(b"")

    with pytest.raises(Invalid) as refused:
        index.publish(path)

    assert refused.value.code == "bad_package"
