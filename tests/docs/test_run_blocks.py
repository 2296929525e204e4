"""The runner of the pages' console blocks, on pages of its own: what it must notice."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from docs.run_blocks import Differs, agrees, blocks_of, run_page, steps_of


def run(tmp_path: Path, text: str) -> int:
    """Run a page that holds `text`."""
    page = tmp_path / "page.md"
    page.write_text(text)
    return run_page(page, tmp_path / "home")


def console(*lines: str) -> str:
    """A console block of lines."""
    return "\n".join(("```console", *lines, "```", ""))


def test_commands_of_a_page_share_folder_and_variables(tmp_path: Path) -> None:
    """Blocks are one terminal, in the order of the page."""
    page = (
        console("$ mkdir inner && cd inner", "$ export WORD=hello")
        + "Text.\n"
        + console("$ echo $WORD from ${PWD##*/}", "hello from inner")
    )

    assert run(tmp_path, page) == 3


def test_output_that_differs_is_told_with_its_line(tmp_path: Path) -> None:
    """The message holds the line of the page, what it shows, and what happens."""
    with pytest.raises(Differs, match=r"(?s)line 2: `echo two`.*three.*two"):
        run(tmp_path, console("$ echo two", "three"))


def test_output_that_is_not_shown_is_a_difference(tmp_path: Path) -> None:
    """What a command prints is shown whole, or left out by dots."""
    with pytest.raises(Differs):
        run(tmp_path, console("$ printf 'one\\ntwo\\n'", "one"))


def test_a_failure_that_is_not_shown_is_a_difference(tmp_path: Path) -> None:
    """A command may fail only where an error is shown."""
    with pytest.raises(Differs, match="exit code 3"):
        run(tmp_path, console("$ (exit 3)"))


def test_a_success_where_an_error_is_shown_is_a_difference(tmp_path: Path) -> None:
    """An error that is shown must come with a failure."""
    with pytest.raises(Differs, match="exit code 0"):
        run(tmp_path, console("$ echo 'error[no-node]: no'", "error[no-node]: no"))


def test_an_error_that_is_shown_may_be_followed_by_its_exit_code(tmp_path: Path) -> None:
    """The terminal keeps $? from one command to the next."""
    page = console("$ echo 'error[x]: y'; (exit 5)", "error[x]: y", "$ echo $?", "5")

    assert run(tmp_path, page) == 2


def test_a_syntax_error_does_not_end_the_terminal(tmp_path: Path) -> None:
    """It is an ordinary failure of one command."""
    with pytest.raises(Differs, match="syntax error"):
        run(tmp_path, console("$ if"))


def test_a_block_with_a_file_is_written_before_the_next_command(tmp_path: Path) -> None:
    """The path is relative to the folder in which the terminal is."""
    page = console("$ mkdir pack && cd pack") + "```python file=src/a.py\nprint(6 * 7)\n```\n" + console("$ python3 src/a.py", "42")

    assert run(tmp_path, page) == 2


def test_a_background_command_ends_with_the_page(tmp_path: Path) -> None:
    """It gets SIGTERM by its process id, and must exit with 0."""
    script = "trap 'exit 0' TERM; echo ready $$; while true; do sleep 0.05; done"
    page = f"```sh file=serve.sh\n{script}\n```\n" + console("$ bash serve.sh &", "ready ...", "$ cat ../background-0.txt > ../said")

    assert run(tmp_path, page) == 2

    pid = int((tmp_path / "home" / "said").read_text().split()[1])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_background_command_may_write_into_a_file_of_its_own(tmp_path: Path) -> None:
    """What is shown below it is then what the file gets; one that the page ends by itself must have ended with 0 too."""
    script = "trap 'exit 0' TERM; echo ready; while true; do sleep 0.05; done"
    page = f"```sh file=serve.sh\n{script}\n```\n" + console(
        "$ bash serve.sh > said.txt 2>&1 &", "ready", "$ cat said.txt", "ready", "$ kill %1"
    )

    assert run(tmp_path, page) == 3
    (tmp_path / "again").mkdir()
    with pytest.raises(Differs, match="exit code 7"):
        run(tmp_path / "again", page.replace("exit 0", "exit 7"))


def test_a_background_command_of_others_may_be_ended_by_the_signal(tmp_path: Path) -> None:
    """Not every server ends by itself when it is told to; ours must."""
    page = "```sh file=serve.sh\necho ready\nexec sleep 300\n```\n" + console("$ bash serve.sh &", "ready")

    assert run(tmp_path, page) == 1


def test_a_background_command_that_fails_at_its_end_is_a_difference(tmp_path: Path) -> None:
    """What stays running must also end well."""
    page = "```sh file=serve.sh\ntrap 'exit 7' TERM; echo ready; while true; do sleep 0.05; done\n```\n"
    with pytest.raises(Differs, match="exit code 7"):
        run(tmp_path, page + console("$ bash serve.sh &", "ready"))


def test_nothing_of_a_broken_page_stays_running(tmp_path: Path) -> None:
    """The terminal and all that it started are killed."""
    page = console("$ (echo ready $BASHPID; exec sleep 300) &", "ready ...", "$ cp ../background-0.txt ../said; false")
    with pytest.raises(Differs):
        run(tmp_path, page)

    pid = int((tmp_path / "home" / "said").read_text().split()[1])
    until = time.monotonic() + 5
    while Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < until
        time.sleep(0.02)


def test_what_varies_is_equal_on_both_sides() -> None:
    """Ids, times, durations, pids, builds and the widths of columns do not count."""
    shown = "04:54:45.564 info req 01M7Y79WYTDZ3HEHKZYXA733N2 pid 4711  build 0.1.0+1e01fc1fe95a  0.2 s"
    printed = "11:22:33.001 info req 01J9Z7M0C4AAAAAAAAAAAAAAAA pid 9 build 0.1.0+aaaaaaaaaaaa 12.25 s"

    assert agrees([shown], printed)
    assert not agrees([shown.replace("info", "error")], printed)


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        (["a ... c"], "a long b c", True),
        (["a ... c"], "a long b d", False),
        (["...", "last"], "first\nsecond\nlast", True),
        (["...", "last"], "last", True),
        (["first", "..."], "first\nsecond", True),
        (["first", "..."], "second", False),
        ([], "", True),
        ([], "anything", False),
    ],
)
def test_dots_stand_for_what_is_left_out(shown: list[str], printed: str, same: bool) -> None:
    """In a line for any text, alone for any number of lines."""
    assert agrees(shown, printed) is same


def test_blocks_inside_a_longer_fence_are_text() -> None:
    """A page may show how a console block is written."""
    blocks = list(blocks_of("````text\n```console\n$ false\n```\n````\n```console\n$ true\n```\n"))

    assert [block.language for block in blocks] == ["text", "console"]
    assert [step.command for step in steps_of(blocks[1])] == ["true"]
