"""The pages of this repository, and the checker on broken ones."""

from __future__ import annotations

import pytest

from docs import check_pages
from docs.run_blocks import ROOT


def test_every_page_says_only_what_is_there() -> None:
    """Links lead somewhere, names that are quoted exist, Python can be parsed, and every page of docs/ can be reached."""
    faults = [fault for page in check_pages.pages() for fault in check_pages.faults_of(page)]

    assert not faults, "\n".join(faults)
    assert not check_pages.unreachable()


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ("README.md", None),
        ("docs/glossary.md#words-that-are-easily-mixed-up", None),
        ("docs/glossary.md#no-such-heading", "is no heading of that page"),
        ("docs/no-such-page.md", "does not exist"),
        ("../", "is outside of the repository"),
        ("https://example.org", None),
    ],
)
def test_a_link_that_leads_nowhere_is_a_fault(target: str, fault: str | None) -> None:
    """Pages, headings, folders; what leaves the repository is not looked at."""
    assert check_pages.broken(ROOT / "README.md", target) == fault


@pytest.mark.parametrize(
    ("quoted", "there"),
    [
        ("core/retry.py", True),
        ("core/retry.py:next_try", True),
        ("core/retry.py:no_such_rule", False),
        ("core/no_such_room.py", False),
        ("Catalog.resolve", True),
        ("Catalog.no_such_method", False),
        ("any other words", True),
    ],
)
def test_a_name_of_code_that_is_gone_is_a_fault(quoted: str, there: bool) -> None:
    """Concept pages name files and methods; they must still exist."""
    assert check_pages.exists_in_code(quoted) is there


def test_changelog_fragments_have_a_kind() -> None:
    """`short-name.KIND.md`, one paragraph."""
    fragments = [path for path in (ROOT / "changelog.d").glob("*") if path.name != "README.md"]

    assert fragments
    for path in fragments:
        assert path.suffixes in [[f".{kind}", ".md"] for kind in ("added", "changed", "fixed", "removed")], path.name
        assert "\n\n" not in path.read_text().strip(), path.name
