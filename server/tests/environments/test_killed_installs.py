"""Installations that are killed: whatever the moment, nothing looks ready that is not, and the next one works."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from millstream_server.adapters.folder_index import FolderIndex
from millstream_server.core.release import Release
from millstream_server.environments.install import Installer

INSTALL = """
import sys
from pathlib import Path
from millstream_server.adapters.folder_index import FolderIndex
from millstream_server.environments.install import Installer
from millstream_server.environments.releases import read_release

index = FolderIndex(Path(sys.argv[1]))
release = read_release(index, "tiny", "1.0.0")
print("begin", flush=True)
Installer(Path(sys.argv[2]), index).install(release, lambda phase, detail: print(phase, flush=True))
"""
PHASES = ("begin", "resolve", "install", "verify", "compile", "probe", "seal")


@pytest.mark.parametrize("victims", ["node", "node and children"])
@pytest.mark.parametrize("phase", PHASES)
def test_a_killed_installation_leaves_nothing_that_looks_ready(
    index: FolderIndex, installer: Installer, release: Release, phase: str, victims: str
) -> None:
    """SIGKILL comes a random moment after each phase began, to the installing process alone or to uv and the probe too."""
    seed = f"{phase} {victims}"
    with subprocess.Popen([sys.executable, "-c", INSTALL, index.root, installer.root], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == phase:
                break
        time.sleep(random.Random(seed).random() * 0.15)
        _kill(process.pid, victims)

    assert_complete_or_absent(installer, release)
    installer.sweep()
    assert_runs(installer, release)


def assert_complete_or_absent(installer: Installer, release: Release) -> None:
    """What is under the build's name already is whole: it runs."""
    if installer.ready(release.build_id) is not None:
        assert_runs(installer, release)
    else:
        assert not (installer.root / release.build_id).exists()


def assert_runs(installer: Installer, release: Release) -> None:
    environment = installer.install(release)
    code = "import millstream.worker, tiny; print(tiny.double(21))"
    assert subprocess.check_output([environment.python, "-I", "-c", code], text=True) == "42\n"


def _kill(pid: int, victims: str) -> None:
    doomed = [pid]
    if victims == "node and children":
        try:
            doomed += [child.pid for child in psutil.Process(pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            pass  # it has ended already
    for each in doomed:
        try:
            os.kill(each, signal.SIGKILL)
        except ProcessLookupError:
            pass  # as above


def test_an_orphan_that_goes_on_writing_does_no_harm(tmp_path: Path, index: FolderIndex, installer: Installer, release: Release) -> None:
    """uv may outlive the node that started it; it writes to a temporary name, which nobody takes for an environment."""
    with subprocess.Popen([sys.executable, "-c", INSTALL, index.root, installer.root], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "install":
                break
        os.kill(process.pid, signal.SIGKILL)

    installer.sweep()  # at once, while the orphan may still write
    time.sleep(0.5)

    assert installer.ready(release.build_id) is None
    assert_runs(installer, release)
    installer.sweep()
    assert [path.name for path in installer.root.iterdir()] == [release.build_id]
