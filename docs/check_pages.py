"""Checks what the pages say about each other and about the code: `python -m docs.check_pages` (make docs).

Every link to a file or heading of the repository leads somewhere; every page of docs/ can be reached from README; Python that is
shown can be parsed; and names of code that the concept pages quote (`Pool.pump`, `core/retry.py`) still exist.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from docs.run_blocks import ROOT, blocks_of

_LINK = re.compile(r"(?<!!)\[[^\]\n]+\]\(([^)\s]+)\)")
_QUOTED = re.compile(r"`([^`\n]+)`")
_METHOD = re.compile(r"([A-Z]\w+)\.(\w+)\Z")
_FILE = re.compile(r"[\w./-]+\.py\Z")
_SOURCES = (
    *("sdk/src", "sdk/tests", "server/src", "server/tests", "tests", "chaos", "blackbox", "benchmarks"),
    *("protocol", "docs", "examples/anomaly/demo"),
)


def main() -> int:
    """Print every fault; 1 where there is one."""
    faults = [fault for page in pages() for fault in faults_of(page)] + [f"{_name(p)}: no page leads here" for p in unreachable()]
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{len(pages())} pages, {len(faults)} faults")
    return 1 if faults else 0


def pages() -> list[Path]:
    """Every Markdown page that is in the repository or about to be."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        found = [ROOT / line for line in listed.stdout.splitlines()]
    else:  # a copy without git
        found = [path for path in ROOT.rglob("*.md") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)]
    return sorted({path for path in found if path.exists()})


def faults_of(page: Path) -> Iterator[str]:
    """What is wrong with one page, each with its place."""
    text = page.read_text(encoding="utf-8")
    for number, line in enumerate(without_blocks(text).splitlines(), 1):
        for target in _LINK.findall(line):
            if (why := broken(page, target)) is not None:
                yield f"{_name(page)}:{number}: {target} {why}"
        if page.parent.name in ("concepts", "decisions"):
            for quoted in _QUOTED.findall(line):
                if not exists_in_code(quoted):
                    yield f"{_name(page)}:{number}: `{quoted}` is not in the code"
    for block in blocks_of(text):
        if block.language == "python":
            try:
                ast.parse(block.text)
            except SyntaxError as error:
                yield f"{_name(page)}:{block.line + (error.lineno or 1) - 1}: {error.msg}"


def broken(page: Path, target: str) -> str | None:
    """Why a link leads nowhere; None for one that does, and for those that leave the repository."""
    if re.match(r"[a-z]+:", target):
        return None
    path, _, anchor = target.partition("#")
    found = (page.parent / path).resolve() if path else page
    if not found.exists():
        return "does not exist"
    if not found.is_relative_to(ROOT):
        return "is outside of the repository"
    if anchor and anchor not in anchors(found):
        return "is no heading of that page"
    return None


def anchors(page: Path) -> set[str]:
    """The headings of a page as link targets."""
    headings = re.findall(r"^#+ +(.*)$", without_blocks(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def without_blocks(text: str) -> str:
    """The page with its fenced blocks emptied, its lines still counted the same."""
    lines = text.splitlines()
    for block in blocks_of(text):
        for number in range(block.line - 1, block.line - 1 + block.text.count("\n")):
            lines[number] = ""
    return "\n".join(lines)


def unreachable() -> list[Path]:
    """Pages of docs/ that no chain of links from README leads to; a link to a folder leads to its pages."""
    reached: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        for target in _LINK.findall(without_blocks(page.read_text(encoding="utf-8"))):
            found = (page.parent / target.partition("#")[0]).resolve()
            waiting += found.glob("*.md") if found.is_dir() else [found] if found.suffix == ".md" and found.exists() else []
    return [page for page in pages() if page.is_relative_to(ROOT / "docs") and page not in reached and page.parent.name != "decisions"]


_texts: dict[Path, str] = {}


def exists_in_code(quoted: str) -> bool:
    """Whether a quoted name is still there: a file by the end of its path (`core/retry.py`, `core/retry.py:next_try`), a method."""
    path, _, name = quoted.partition(":")
    if _FILE.match(path):
        return any(f"/{file}".endswith(f"/{path}") and (not name or _defines(text, name)) for file, text in _sources().items())
    method = _METHOD.match(quoted)
    if method is None:
        return True
    owner, name = method.groups()
    return any(re.search(rf"^class {owner}\b", text, re.MULTILINE) and _defines(text, name) for text in _sources().values())


def _defines(text: str, name: str) -> bool:
    return re.search(rf"^\s*((async )?def|class) {name}\b|^\s*{name}\b *[:=]", text, re.MULTILINE) is not None


def _sources() -> dict[Path, str]:
    if not _texts:
        for folder in _SOURCES:
            _texts.update((path.relative_to(ROOT), path.read_text(encoding="utf-8")) for path in (ROOT / folder).rglob("*.py"))
    return _texts


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


if __name__ == "__main__":
    sys.exit(main())
