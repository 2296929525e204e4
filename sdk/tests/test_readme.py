"""The README's examples run."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest


def test_the_examples_of_the_readme_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """All Python blocks, in order, in one module; the second holds what the first declared against its asserts."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (Path(__file__).parents[1] / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    module = types.ModuleType("readme")
    monkeypatch.setitem(sys.modules, "readme", module)

    for block in blocks:
        exec(compile(block, "README.md", "exec", dont_inherit=True), module.__dict__)

    assert len(blocks) == 2
