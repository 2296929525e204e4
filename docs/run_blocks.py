"""Runs what README and the how-to pages show, and compares: `python -m docs.run_blocks [PAGE...]` (make docs).

A page is one terminal: its blocks run in order, in an empty folder, with a fresh HOME and MILLSTREAM_DATA_DIR. Rules of the blocks:

    ```console            a line "$ command" is run ("> " continues it); the lines below it are the whole of what it prints
    ```python file=PATH   any language: the block is written to PATH, in the folder in which the terminal is
    all other blocks      are read by people only

A command that ends in " &" stays in the background: the lines below it are what it says within START_S, more may follow (where it
ends in "> FILE 2>&1 &", what FILE gets); at the end of the page it gets SIGTERM, if it is still there, and must exit with 0, or, where it
is another program than millstream, may be ended by it. A command whose shown output has a line that begins with "error[" must fail,
every other one must succeed. In shown output "..." stands for any text of a line, and alone on a line for any number of lines; what
differs from run to run is made equal on both sides by VARYING.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMAND_S = 60.0
ACCEPTS = "accepts requests"
START_S = 20.0
MARK = "\x1eblock-end"

VARYING = (
    (re.compile(r"\b[0-9A-HJKMNP-TV-Z]{26}\b"), "ID"),
    (re.compile(r"\b\d{4}-\d\d-\d\d\b"), "DATE"),
    (re.compile(r"\b\d\d:\d\d:\d\d(\.\d+)?\b"), "TIME"),
    (re.compile(r"\bpid \d+"), "pid N"),
    (re.compile(r"\b\d+(\.\d+)? ?(ms|s|MB)\b"), r"N \2"),
    (re.compile(r"\+[0-9a-f]{12}\b"), "+BUILD"),
    (re.compile(r"\b[0-9a-f]{16,64}\b"), "HEX"),
    (re.compile(r"\b[Pp]ython +3\.\d+(\.\d+)?"), "Python 3.N"),
    (re.compile(r"[ \t]+"), " "),
)
"""Ids, dates, times, pids, durations, builds, hashes, the Python at hand, and spaces that only align columns."""

KEPT_VARIABLES = re.compile(r"(PATH|LANG|UV_.*|PIP_.*|SSL_CERT_.*|https?_proxy|no_proxy|PYENV_.*)\Z", re.IGNORECASE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the words behind that, and the line of the page that its text begins on."""

    language: str
    options: dict[str, str]
    text: str
    line: int


@dataclass
class Step:
    """One command of a console block and the output shown below it."""

    command: str
    line: int
    shown: list[str] = field(default_factory=list)

    @property
    def stays(self) -> bool:
        return self.command.endswith(" &")

    @property
    def must_fail(self) -> bool:
        return any(line.startswith("error[") for line in self.shown)


class Differs(Exception):
    """The page shows something else than what happens."""


def blocks_of(text: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    fence = ""
    for number, line in enumerate(text.splitlines(), 1):
        if not fence:
            opened = re.match(r"(```+)(\w*)(.*)\Z", line)
            if opened:
                fence, language, words = opened.groups()
                options = dict(word.partition("=")[::2] for word in words.split())
                lines: list[str] = []
                begun = number + 1
        elif line.strip() == fence:
            yield Block(language, options, "".join(f"{each}\n" for each in lines), begun)
            fence = ""
        else:
            lines.append(line)


def steps_of(block: Block) -> list[Step]:
    """The commands of a console block."""
    steps: list[Step] = []
    for number, line in enumerate(block.text.splitlines(), block.line):
        if line.startswith("$ "):
            steps.append(Step(line[2:].rstrip(), number))
        elif line.startswith("> ") and steps and not steps[-1].shown:
            steps[-1].command += "\n" + line[2:]
        elif steps:
            steps[-1].shown.append(line)
        else:
            raise Differs(f"line {number}: a console block begins with a command, a line that starts with '$ '")
    return steps


def agrees(shown: Sequence[str], printed: str, *, may_go_on: bool = False) -> bool:
    """Whether what was printed is what the page shows."""
    pattern = "".join(r"(?:.*\n)*?" if line.strip() == "..." else _line_pattern(line) for line in shown)
    text = "".join(f"{_made_equal(line)}\n" for line in printed.rstrip("\n").split("\n")) if printed.strip() else ""
    found = re.match(pattern, text) if may_go_on else re.fullmatch(pattern, text)
    return found is not None


def _line_pattern(line: str) -> str:
    return ".*".join(re.escape(_made_equal(part)) for part in line.split("...")) + r" *\n"


def _made_equal(line: str) -> str:
    for pattern, same in VARYING:
        line = pattern.sub(same, line)
    return line.rstrip()


class Terminal:
    """One bash in an empty folder; commands share its folder and variables."""

    def __init__(self, home: Path) -> None:
        folder = home / "work"
        folder.mkdir(parents=True)
        self.home = home
        self.folder = str(folder)
        self._code = 0
        self._number = 0
        self._background: list[tuple[Step, int, Path]] = []
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=_environment(home),
            start_new_session=True,
        )

    def run(self, step: Step) -> None:
        """Run one command and compare.

        Raises:
            Differs: it prints something else, or succeeds or fails against what is shown, or does not end.
        """
        if step.stays:
            self._start(step)
            return
        printed = self._ask(step.command)
        if not agrees(step.shown, printed):
            raise Differs(_difference(step, printed))
        if (self._code != 0) != step.must_fail:
            raise Differs(f"line {step.line}: `{step.command}` ends with exit code {self._code}\n{printed}")

    def write(self, path: str, text: str) -> None:
        """Write a file, relative to the folder in which the terminal is."""
        target = Path(self.folder, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")

    def end_background(self) -> None:
        """End what stays in the background, the latest first.

        Raises:
            Differs: one of them did not exit with 0.
        """
        while self._background:
            step, pid, output = self._background.pop()
            self._ask(f"kill -TERM {pid}; wait {pid}")
            if self._code not in ((0,) if step.command.startswith("millstream") else (0, 128 + signal.SIGTERM)):
                raise Differs(f"line {step.line}: `{step.command}` ends with exit code {self._code}\n{output.read_text()}")

    def close(self) -> None:
        """End the bash and all that it started: nothing of a broken page stays behind."""
        os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.wait()
        for pipe in (self._bash.stdin, self._bash.stdout):
            if pipe is not None:
                pipe.close()

    def _start(self, step: Step) -> None:
        command = step.command[:-2]
        redirected = re.search(r">\s*(\S+) 2>&1\Z", command)
        output = Path(self.folder, redirected[1]) if redirected else self.home / f"background-{len(self._background)}.txt"
        output.touch()
        pid = int(self._ask(f"{command if redirected else f'{command} >{output} 2>&1'} &\necho $!"))
        self._background.append((step, pid, output))
        until = time.monotonic() + START_S
        # A person who has started a node types on more slowly than it starts.
        said = ACCEPTS if re.search(r"\bmillstream up\b", command) else ""
        while not agrees(step.shown, output.read_text(), may_go_on=True) or said not in output.read_text():
            if time.monotonic() > until:
                raise Differs(_difference(step, output.read_text()))
            time.sleep(0.05)

    def _ask(self, command: str) -> str:
        """Run a command in the bash, by way of a file: a syntax error ends the file, not the bash."""
        self._number += 1
        script = self.home / f"command-{self._number}.sh"
        script.write_text(command + "\n", encoding="utf-8")
        assert self._bash.stdin is not None
        line = f"(exit {self._code}); . {script} </dev/null; printf '\\n{MARK} %d %s\\n' $? \"$PWD\"\n"
        self._bash.stdin.write(line.encode())
        self._bash.stdin.flush()
        printed, _, said = self._read(command).rpartition(f"\n{MARK} ")
        code, _, self.folder = said.rstrip("\n").partition(" ")
        self._code = int(code)
        return printed.replace(str(self.home), "~")

    def _read(self, command: str) -> str:
        assert self._bash.stdout is not None
        handle = self._bash.stdout.fileno()
        read = b""
        until = time.monotonic() + COMMAND_S
        while not re.search(rb"\n" + MARK.encode() + rb" \d+ [^\n]*\n\Z", read):
            able, _, _ = select.select([handle], [], [], max(0.0, until - time.monotonic()))
            more = os.read(handle, 65536) if able else b""
            if not more:
                why = f"takes longer than {COMMAND_S:g} s" if not able else "ends the terminal"
                raise Differs(f"`{command}` {why}\n{read.decode('utf-8', 'replace')}")
            read += more
        return read.decode("utf-8", "replace")


def _environment(home: Path) -> dict[str, str]:
    """A newcomer's: nothing but where programs and the package index are. uv's cache stays, so that no run downloads anew."""
    kept = {name: value for name, value in os.environ.items() if KEPT_VARIABLES.match(name)}
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return {
        "UV_CACHE_DIR": f"{cache}/uv",
        **kept,
        "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ.get('PATH', '/usr/bin:/bin')}",
        "HOME": str(home),
        "MILLSTREAM_DATA_DIR": str(home / "data"),
        "MILLSTREAM_MLFLOW_URI": "off",  # else each page that trains something would start MLflow; the page on it says so itself
        "COLUMNS": "120",
        "TERM": "dumb",
    }


def _difference(step: Step, printed: str) -> str:
    shown = "\n".join(f"    {line}" for line in step.shown) or "    (nothing)"
    got = "\n".join(f"    {line}" for line in printed.rstrip().splitlines()) or "    (nothing)"
    return f"line {step.line}: `{step.command}`\n  the page shows\n{shown}\n  it prints\n{got}"


def run_page(page: Path, home: Path) -> int:
    """Run the blocks of a page; how many commands it holds.

    Raises:
        Differs: with the line of the page, what it shows, and what happens.
    """
    count = 0
    terminal = Terminal(home)
    try:
        for block in blocks_of(page.read_text(encoding="utf-8")):
            if "file" in block.options:
                terminal.write(block.options["file"], block.text)
            elif block.language == "console":
                for step in steps_of(block):
                    terminal.run(step)
                    count += 1
        terminal.end_background()
    finally:
        terminal.close()
    return count


@contextlib.contextmanager
def _empty_folder() -> Iterator[Path]:
    """A folder that is removed at the end, also where it holds environments, whose folders are read-only."""
    folder = Path(tempfile.mkdtemp(prefix="millstream-docs-")).resolve()
    try:
        yield folder
    finally:
        for inner, _, _ in os.walk(folder):
            os.chmod(inner, 0o700)
        shutil.rmtree(folder)


def try_page(page: Path) -> tuple[str, bool]:
    """Run a page in a folder of its own: what to say about it, and whether it is as shown."""
    name = os.path.relpath(page, ROOT)
    begun = time.monotonic()
    with _empty_folder() as home:
        try:
            count = run_page(page, home)
        except Differs as error:
            return f"{name}: {error}", False
    return f"{name}: {count} commands as shown, {time.monotonic() - begun:.1f} s", True


def main(arguments: Sequence[str]) -> int:
    """Run the pages named, else README and every how-to page; 1 where one differs. Two at a time, since pages mostly wait."""
    pages = [Path(each).resolve() for each in arguments] or [ROOT / "README.md", *sorted((ROOT / "docs" / "how-to").glob("*.md"))]
    failed = 0
    with ThreadPoolExecutor(2) as pool:
        for said, right in pool.map(try_page, pages):
            failed += not right
            print(said, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
