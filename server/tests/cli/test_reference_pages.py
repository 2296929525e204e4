"""The generated pages in `docs/` are what the program says now."""

from __future__ import annotations

from pathlib import Path

import pytest
from millstream_server.cli.reference import pages

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("name", ["errors.md", "reference/cli.md", "reference/settings.md", "reference/states.md"])
def test_a_page_is_what_would_be_made_now(name: str) -> None:
    """A new command, setting or error code without its page fails here; `python docs/generate.py` writes them."""
    assert (DOCS / name).read_text(encoding="utf-8") == pages()[name]
