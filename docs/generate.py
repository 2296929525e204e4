"""Writes the pages of `docs/` that are made from the program: `python docs/generate.py`, or `--check` to compare only."""

from __future__ import annotations

import sys
from pathlib import Path

from millstream_server.cli.reference import pages

DOCS = Path(__file__).parent


def main() -> int:
    """Write or compare; 1 where a page is not what would be made now."""
    stale = [name for name, text in pages().items() if not (DOCS / name).is_file() or (DOCS / name).read_text(encoding="utf-8") != text]
    if "--check" in sys.argv:
        for name in stale:
            print(f"docs/{name} is not what the program says now; write it anew: python docs/generate.py")
        return 1 if stale else 0
    for name in stale:
        (DOCS / name).parent.mkdir(parents=True, exist_ok=True)
        (DOCS / name).write_text(pages()[name], encoding="utf-8")
        print(f"docs/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
