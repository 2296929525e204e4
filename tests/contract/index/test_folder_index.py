"""What the folder promises beyond the contract: damage is seen, and nothing half written has a wheel's name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from millstream_server.adapters.folder_index import FolderIndex
from millstream_server.core.errors import Invalid, MillstreamError, Unavailable

MakeWheel = Callable[..., Path]


def test_a_changed_byte_is_found_at_fetch(tmp_path: Path, make_wheel: MakeWheel) -> None:
    """A wheel that differs from its record is never handed out."""
    index = FolderIndex(tmp_path / "index", companions=())
    wheel = make_wheel("shop", "1.0.0")
    index.publish(wheel)
    data = bytearray(wheel.read_bytes())
    data[len(data) // 2] ^= 1
    (index.root / wheel.name).write_bytes(data)

    with pytest.raises(Invalid) as refused:
        index.fetch("shop", "1.0.0")

    assert refused.value.code == "hash_mismatch"
    assert wheel.name in refused.value.message


def test_a_wheel_without_a_record_is_found(tmp_path: Path, make_wheel: MakeWheel) -> None:
    """A folder that somebody filled by hand is an index too."""
    wheel = make_wheel("shop", "1.0.0")
    root = tmp_path / "index"
    root.mkdir()
    (root / wheel.name).write_bytes(wheel.read_bytes())

    assert FolderIndex(root).fetch("shop", "1.0.0")[1].filename == wheel.name


def test_companions_are_taken_in_with_the_first_release(tmp_path: Path, make_wheel: MakeWheel) -> None:
    """The SDK's wheel goes into the index beside the release that was locked with it."""
    sdk = make_wheel("millstream_sdk", "0.1.0")
    index = FolderIndex(tmp_path / "index", companions=[sdk])

    index.publish(make_wheel("shop", "1.0.0"))

    assert [entry.package for entry in index.entries()] == ["millstream-sdk", "shop"]


def test_install_arguments_name_the_folder(tmp_path: Path) -> None:
    """uv finds the folder's wheels wherever it is started."""
    assert FolderIndex(tmp_path / "index").install_arguments() == ["--find-links", str(tmp_path / "index")]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, make_wheel: MakeWheel) -> None:
    """A file in the folder's place is named, with what is wrong."""
    (tmp_path / "index").write_text("")

    with pytest.raises(Unavailable) as refused:
        FolderIndex(tmp_path / "index", companions=()).publish(make_wheel("shop", "1.0.0"))

    assert refused.value.code == "data_dir_unusable"
    assert str(tmp_path / "index") in refused.value.message


def test_a_wheel_that_is_missing_is_told(tmp_path: Path) -> None:
    """Publishing before building names the command that builds."""
    with pytest.raises(MillstreamError, match="there is no wheel") as refused:
        FolderIndex(tmp_path / "index", companions=()).publish(tmp_path / "shop-1.0.0-py3-none-any.whl")

    assert refused.value.mend == "build it: millstream build"


def test_a_wheel_that_is_withdrawn_leaves_nothing_and_may_be_published_anew(tmp_path: Path, make_wheel: MakeWheel) -> None:
    """Its record goes with it; others stay."""
    index = FolderIndex(tmp_path / "index", companions=())
    for version in ("1.0.0", "1.1.0"):
        index.publish(make_wheel("shop", version))

    assert [index.withdraw("shop", "1.0.0"), index.withdraw("shop", "1.0.0")] == [True, False]

    assert [entry.version for entry in index.entries()] == ["1.1.0"]
    assert len(list((tmp_path / "index").glob("shop*"))) == 2
    assert index.publish(make_wheel("shop", "1.0.0", says="other"))


@pytest.mark.parametrize("delay_ms", [0, 2, 5, 10, 20])
def test_a_killed_publisher_leaves_no_half_wheel(tmp_path: Path, make_wheel: MakeWheel, delay_ms: int) -> None:
    """Whenever the process dies, the wheel is there whole or not at all, and publishing again works."""
    wheel = make_wheel("shop", "1.0.0", padding_bytes=20_000_000)
    root = tmp_path / "index"
    code = "import sys; from pathlib import Path; from millstream_server.adapters.folder_index import FolderIndex\n"
    code += "print(flush=True); FolderIndex(Path(sys.argv[1]), companions=()).publish(Path(sys.argv[2]))"
    with subprocess.Popen([sys.executable, "-c", code, str(root), str(wheel)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay_ms / 1000)
        os.kill(process.pid, signal.SIGKILL)

    index = FolderIndex(root, companions=())
    whole = [entry.filename for entry in index.entries()]
    assert whole in ([], [wheel.name])
    assert index.publish(wheel) is (whole == [])
    assert index.fetch("shop", "1.0.0")[0].read_bytes() == wheel.read_bytes()
    assert not list(root.glob(".tmp-*"))
