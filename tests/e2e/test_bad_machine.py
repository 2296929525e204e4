"""What a node meets on its machine: a data directory of a newer version, a terminal that nobody reads, a full disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from running_platform import INPUT, Running, wheel

from blackbox.command import Platform, child_environment, shipped_command

pytestmark = pytest.mark.xdist_group("bad input")


def test_a_data_directory_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    """`up` ends with exit code 5, names both formats, and changes no file."""
    made = tmp_path / "data"
    made.mkdir()
    text = json.dumps({"format": 99, "version": "9.0.0", "log_id": "x", "created_ms": 1})
    (made / "data.json").write_text(text)
    environment = child_environment({"MILLSTREAM_DATA_DIR": str(made)})

    ended = subprocess.run([shipped_command(), "up"], env=environment, capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 5
    assert ended.stderr.startswith("error[data-dir-too-new]")
    assert "9.0.0" in ended.stderr
    assert "--data-dir" in ended.stderr.rpartition("mend: ")[2]
    assert [(path.name, path.read_text()) for path in made.iterdir()] == [("data.json", text)]


def test_a_terminal_that_nobody_reads_holds_up_no_request(tmp_path: Path) -> None:
    """The node's lines go to its log file whatever becomes of the terminal: a pipe that is full, or closed."""
    running = Running(Platform(tmp_path / "data"), tmp_path / "none")
    node = running.platform.spawn("up", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert node.stdout is not None
    assert node.stderr is not None
    assert b"accepts requests" in node.stdout.readline()
    asked = "".join(json.dumps({"id": f"{n}", "pipeline": "none"}) + "\n" for n in range(2000))

    for _ in range(2):
        running.platform.run("topics", "append", INPUT, stdin=asked)
        last = running.say("invoke", "none", "--timeout", "20")
        assert last.err.startswith("error[unknown-pipeline]")
        node.stderr.close()

    assert node.poll() is None
    node.send_signal(signal.SIGTERM)
    assert node.wait(20) == 0
    node.stdout.close()


def test_a_full_disk_under_the_log_costs_no_acknowledged_request_and_no_restart() -> None:
    """Appends are refused with no_space, the node lives on, and when space returns every acknowledged request is answered once."""
    script = Path(__file__).with_name("full_disk.py")
    own_namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    can = subprocess.run([*own_namespace, "true"], capture_output=True, check=False).returncode == 0
    if not can and os.geteuid() != 0:
        # Mounting is a right that the system grants; root, as in CI, has it always, so there this is never skipped.
        pytest.skip("this machine lets nobody mount a small disk of their own")

    ended = subprocess.run(
        [*(own_namespace if can else []), sys.executable, str(script), str(wheel("1.0.0"))],
        cwd=Path(__file__).parents[2],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr[-4000:]
    figures = json.loads(ended.stdout.splitlines()[-1])
    assert figures["refused_with"] == {"code": 5, "error": "error[no-space]"}
    assert figures["same_node"]
    assert figures["acknowledged"] > 0
    assert (figures["answered_once"], figures["answered_right"]) == (figures["acknowledged"], figures["acknowledged"])
