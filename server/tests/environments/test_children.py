"""Child processes of builds and installations end with everything that they started."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from millstream_server.environments.children import Cancelled, bare_environment, clean_environment, run_child

SLEEPER = "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
SLEEPER += "open(sys.argv[1], 'w').write(str(child.pid)); "


def pid_in(path: Path) -> int:
    while not path.exists() or not path.read_text():
        time.sleep(0.01)
    return int(path.read_text())


def is_gone(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.01)
    return False


def test_output_and_exit_code_are_returned() -> None:
    """Both streams come back apart, and so does the code."""
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"

    ended = run_child([sys.executable, "-c", code], environment=bare_environment())

    assert (ended.code, ended.stdout, ended.stderr) == (3, "out\n", "err\n")


def test_lines_of_standard_error_are_told_as_they_come() -> None:
    """A line is told whole, also when it was written in parts."""
    code = "import sys, time\nfor part in ('a', 'b\\nc', '\\n'):\n sys.stderr.write(part); sys.stderr.flush(); time.sleep(0.02)"
    lines: list[str] = []

    run_child([sys.executable, "-c", code], environment=bare_environment(), on_line=lines.append)

    assert lines == ["ab", "c"]


def test_endless_output_is_cut_to_its_end() -> None:
    """A child that prints more than a MiB does not fill our memory; the end of it, where the error is, is kept."""
    ended = run_child([sys.executable, "-c", "print('x' * 5_000_000); print('end')"], environment=bare_environment())

    assert len(ended.stdout) == 1 << 20
    assert ended.stdout.endswith("x\nend\n")


def test_a_cancelled_child_ends_with_its_own_children(tmp_path: Path) -> None:
    """Cancelling ends the whole group, and is told as such."""
    cancel = threading.Event()
    note = tmp_path / "pid"

    def cancel_when_all_run() -> None:
        pid_in(note)
        cancel.set()

    threading.Thread(target=cancel_when_all_run).start()

    with pytest.raises(Cancelled):
        run_child([sys.executable, "-c", SLEEPER + "time.sleep(60)", note], environment=bare_environment(), cancel=cancel)

    assert is_gone(pid_in(note))


def test_a_child_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    """After its time a child is ended, and its exit code names the signal."""
    note = tmp_path / "pid"

    ended = run_child([sys.executable, "-c", SLEEPER + "time.sleep(60)", note], environment=bare_environment(), timeout_s=1.0)

    assert ended.code < 0
    assert is_gone(pid_in(note))


def test_what_a_child_leaves_behind_is_ended(tmp_path: Path) -> None:
    """A grandchild that outlives the child and holds its pipes neither keeps us waiting nor stays."""
    note = tmp_path / "pid"
    started = time.monotonic()

    ended = run_child([sys.executable, "-c", SLEEPER, note], environment=bare_environment())

    assert ended.code == 0
    assert time.monotonic() - started < 10
    assert is_gone(pid_in(note))


def test_tools_see_the_users_index_settings_but_no_python_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """PYTHONPATH and an active environment would change what is built; a private index must count."""
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("VIRTUAL_ENV", "/elsewhere")
    monkeypatch.setenv("UV_INDEX_CORNER_USERNAME", "kim")

    environment = clean_environment()

    assert not {name for name in environment if name.startswith("PYTHON")} | ({"VIRTUAL_ENV"} & environment.keys())
    assert environment["UV_INDEX_CORNER_USERNAME"] == "kim"
    assert environment["UV_PYTHON_DOWNLOADS"] == "never"


def test_pipeline_code_sees_no_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    """What imports a package for the first time has paths and language, nothing else of ours."""
    monkeypatch.setenv("CLOUD_SECRET_KEY", "secret")

    assert set(bare_environment()) <= {"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ"}
    assert os.environ["CLOUD_SECRET_KEY"] == "secret"
