"""The types that authors' editors and checkers see."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SAMPLE = Path(__file__).with_name("decorators.py")


def test_decorated_functions_keep_their_types(tmp_path: Path) -> None:
    """Strict mypy finds the sample right, and every error that the sample expects is one."""
    command = [sys.executable, "-m", "mypy", "--strict", "--warn-unused-ignores", "--cache-dir", str(tmp_path), "--config-file", ""]
    done = subprocess.run([*command, str(SAMPLE)], capture_output=True, text=True, check=False, cwd=tmp_path)

    assert done.stdout.startswith("Success: no issues found"), done.stdout + done.stderr
