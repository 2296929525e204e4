"""A release is what its published wheel says, and only if the wheel agrees with itself."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import msgspec
import pytest
from millstream_server.adapters.folder_index import FolderIndex
from millstream_server.core.errors import Invalid
from millstream_server.environments import wheels
from millstream_server.environments.build import Built
from millstream_server.environments.releases import read_release


def republished(tmp_path: Path, wheel: Path, changes: dict[str, bytes]) -> FolderIndex:
    """An index that holds the wheel with other contents of some files, which its RECORD agrees with."""
    forged = tmp_path / "forged" / wheel.name
    forged.parent.mkdir()
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(forged, "w") as new:
        for name in old.namelist():
            new.writestr(name, changes.get(name.removeprefix("tiny-1.0.0.dist-info/millstream/"), old.read(name)))
    index = FolderIndex(tmp_path / "forged-index", companions=())
    index.publish(forged)
    return index


def test_a_published_wheel_is_read_as_a_release(tiny: Built, index: FolderIndex) -> None:
    """It is about to be deployed, and names its wheel by file and hash."""
    index.publish(tiny.wheel)

    release = read_release(index, "tiny", "1.0")

    assert release.manifest == tiny.manifest
    assert (release.wheel, release.wheel_sha256, release.status) == (tiny.wheel.name, tiny.sha256, "DEPLOYING")


def test_what_is_not_published_cannot_be_deployed(index: FolderIndex) -> None:
    """The index says so before anything is deployed."""
    with pytest.raises(Invalid) as refused:
        read_release(index, "tiny", "1.0.0")

    assert refused.value.code == "not_published"


def test_a_wheel_of_another_tool_is_no_release(tmp_path: Path) -> None:
    """A wheel without a manifest was not made by millstream build, and the mend says that."""
    wheel = tmp_path / "tiny-1.0.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny-1.0.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0.0\n")
    index = FolderIndex(tmp_path / "index", companions=())
    index.publish(wheel)

    with pytest.raises(Invalid, match="carries no millstream/manifest") as refused:
        read_release(index, "tiny", "1.0.0")

    assert "millstream build" in refused.value.mend


@pytest.mark.parametrize("part", ["lock", "code", "version", "build_id"])
def test_a_wheel_that_disagrees_with_its_manifest_is_refused(tmp_path: Path, tiny: Built, part: str) -> None:
    """Lock, code, version and build id are all recomputed from the wheel's bytes."""
    manifest = tiny.manifest
    changes: dict[str, bytes] = {}
    if part == "lock":
        changes["lock.txt"] = b"msgspec==0.1\n"
    elif part == "code":
        changes["tiny/__init__.py"] = b"evil = True\n"
    elif part == "version":
        changes["manifest.json"] = msgspec.json.encode(msgspec.structs.replace(manifest, version="1.0.1"))
    else:
        changes["manifest.json"] = msgspec.json.encode(msgspec.structs.replace(manifest, build_id="1.0.0+000000000000"))

    with pytest.raises(Invalid) as refused:
        read_release(republished(tmp_path, tiny.wheel, changes), "tiny", "1.0.0")

    assert refused.value.code == "hash_mismatch"


@pytest.mark.parametrize("module", ["json", "millstream"])
def test_a_wheel_with_a_module_of_python_or_of_the_platform_is_refused(tmp_path: Path, tiny: Built, module: str) -> None:
    """Whoever made it: the build refuses such a package too."""
    forged = tmp_path / "forged" / tiny.wheel.name
    forged.parent.mkdir()
    shutil.copy(tiny.wheel, forged)
    with zipfile.ZipFile(forged, "a") as archive:
        archive.writestr(f"{module}/__init__.py", "evil = True\n")
    index = FolderIndex(tmp_path / "index", companions=())
    index.publish(forged)

    with pytest.raises(Invalid, match=f"has the module {module}") as refused:
        read_release(index, "tiny", "1.0.0")

    assert refused.value.code == "bad_package"


def test_a_manifest_of_a_newer_format_is_refused(tmp_path: Path, tiny: Built) -> None:
    """A server does not guess what a later one meant."""
    newer = msgspec.json.encode(msgspec.structs.replace(tiny.manifest, format=2))

    with pytest.raises(Invalid, match="has format 2, this server reads 1"):
        read_release(republished(tmp_path, tiny.wheel, {"manifest.json": newer}), "tiny", "1.0.0")


def test_the_hash_of_code_is_that_of_the_wheel_before_the_manifest_was_added(tmp_path: Path, tiny: Built) -> None:
    """So the manifest can hold it."""
    bare = tmp_path / tiny.wheel.name
    with zipfile.ZipFile(tiny.wheel) as old, zipfile.ZipFile(bare, "w") as new:
        for name in old.namelist():
            if "/millstream/" not in name:
                new.writestr(name, old.read(name))

    assert wheels.code_sha256(bare) == tiny.manifest.code_sha256


def test_programs_in_a_wheel_stay_executable(tmp_path: Path) -> None:
    """Adding files keeps the mode of those that are there."""
    plain, packed = tmp_path / "a-1-py3-none-any.whl", tmp_path / "packed" / "a-1-py3-none-any.whl"
    packed.parent.mkdir()
    with zipfile.ZipFile(plain, "w") as archive:
        archive.writestr("a-1.dist-info/METADATA", "Name: a\nVersion: 1\n")
        script = zipfile.ZipInfo("a-1.data/scripts/tool")
        script.external_attr = 0o100755 << 16
        archive.writestr(script, "#!/bin/sh\n")

    wheels.add_files(plain, packed, {"millstream/lock.txt": b""})

    with zipfile.ZipFile(packed) as archive:
        assert archive.getinfo("a-1.data/scripts/tool").external_attr >> 16 == 0o100755
        assert archive.namelist()[-1] == "a-1.dist-info/RECORD"
