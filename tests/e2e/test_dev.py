"""`millstream dev`: an author saves, and the new code answers; what is broken is told, and the old code answers on."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from running_platform import PACKAGES

from blackbox.command import CommandFailed, Platform, child_environment, shipped_command
from blackbox.processes import command_line, process, tree
from blackbox.stream import wait_for

pytestmark = pytest.mark.xdist_group("dev")

RELEASED_S = 60.0
END_S = 40.0
SECONDS = re.compile(r"first answer of weigh==(\S+): (\d+\.\d) s after the save \(length\)")


@dataclass
class Author:
    """A package's folder, and `millstream dev` on it."""

    folder: Path
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def source(self) -> Path:
        return self.folder / "src/weigh/__init__.py"

    @property
    def platform(self) -> Platform:
        """The command from another terminal."""
        return Platform(self.folder / ".millstream-dev")

    def words(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, words: str, timeout_s: float = RELEASED_S) -> None:
        def said() -> bool:
            assert self.process.poll() is None or words in self.words(), self.words()
            return words in self.words()

        try:
            wait_for(said, timeout_s, repr(words))
        except TimeoutError as error:
            raise AssertionError(f"{error}; it said:\n{self.words()}") from None

    def save(self, old: str, new: str, path: Path | None = None) -> None:
        """As an editor does it: a new file takes the place of the old one."""
        path = path or self.source
        text = path.read_text()
        assert old in text
        temporary = path.with_name(".new")
        temporary.write_text(text.replace(old, new))
        os.replace(temporary, path)

    def ask(self, pipeline: str, params: dict[str, object]) -> dict[str, object]:
        """The whole result of one request."""
        result = json.loads(self.platform.run("invoke", pipeline, "--params", json.dumps(params), "--full", "--timeout", "30"))
        assert isinstance(result, dict)
        return result

    def length(self) -> tuple[object, object]:
        said = self.ask("length", {"text": "four"})
        return said["result"], said["release"]

    def family(self) -> list[int]:
        return [one.pid for one in tree(self.process.pid)]

    def end(self) -> str:
        """Ctrl-C; what it said."""
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return self.words()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The package `weigh`, as its author has it."""
    folder = tmp_path / "weigh"
    shutil.copytree(PACKAGES / "weigh", folder, ignore=shutil.ignore_patterns("dist", "__pycache__"))
    return folder


@pytest.fixture
def author(folder: Path, tmp_path: Path) -> Iterator[Author]:
    """`millstream dev` on it, its first release not yet waited for."""
    author = start(folder, tmp_path)
    yield author
    author.end()


def start(folder: Path, tmp_path: Path, *arguments: str) -> Author:
    log = tmp_path / "dev.txt"
    # Variables that connect a node elsewhere are none of its business.
    environment = child_environment({"MILLSTREAM_KAFKA_BOOTSTRAP": "nowhere:1", "MILLSTREAM_DATA_DIR": str(tmp_path / "production")})
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [str(shipped_command()), "dev", str(folder), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Author(folder, log, process)


def left(pids: list[int]) -> list[str]:
    """What still runs of these, by state and command; one that has ended and waits for its new parent, the machine's init, does not."""
    found = [one for pid in pids if (one := process(pid)) is not None and one.state != "Z"]
    return [f"{one.state} {' '.join(command_line(one.pid))}" for one in found]


def test_an_author_saves_breaks_mends_and_ends(folder: Path, tmp_path: Path) -> None:
    """New code answers; broken code is told with file and line while the last good release answers; Ctrl-C leaves nothing."""
    author = start(folder, tmp_path, "--ask", "length", "--params", '{"text": "four"}')
    try:
        author.wait_for("length in weigh==1.0.0.dev1: 4")
        [printed] = [line for line in author.words().splitlines() if line.startswith("  millstream invoke length ")]
        assert printed == f"  millstream invoke length --tenant default --params '{{\"text\": ...}}' --data-dir {folder}/.millstream-dev"
        assert author.length() == (4, "weigh==1.0.0.dev1")

        author.save("return len(text)", "return len(text) + 100")
        author.wait_for("length in weigh==1.0.0.dev2: 104")
        author.wait_for("first answer of weigh==1.0.0.dev2: ")
        assert author.length() == (104, "weigh==1.0.0.dev2")

        author.save("return len(text) + 100", "return len(text +")
        author.wait_for("weigh==1.0.0.dev2 serves on")
        line = author.source.read_text().splitlines().index("    return len(text +") + 1
        assert f"error[import-failed]: module weigh cannot be imported: SyntaxError: '(' was never closed (__init__.py, line {line})" in (
            author.words()
        )
        assert f"at src/weigh/__init__.py:{line}" in author.words()
        assert author.length() == (104, "weigh==1.0.0.dev2")

        author.save("return len(text +", "return len(text) + 200")
        author.wait_for("length in weigh==1.0.0.dev3: 204")
        assert author.length() == (204, "weigh==1.0.0.dev3")
        seconds = {version: float(took) for version, took in SECONDS.findall(author.words())}
        assert set(seconds) == {"1.0.0.dev2", "1.0.0.dev3"}
        assert max(seconds.values()) < 30  # a collapse, not noise

        family = author.family()
        assert len(family) > 1
        assert (folder / ".millstream-dev/.gitignore").read_text() == "*\n"
        assert not (tmp_path / "production").exists()
    finally:
        words = author.end()

    assert author.process.returncode == 0, words
    assert words.rstrip().endswith("ended; nothing runs any more")
    assert left(family) == []
    assert 'Traceback (most recent call last):\n  File "/' not in words


def test_models_of_earlier_releases_answer_until_they_are_trained_again(author: Author) -> None:
    """The platform's promise; the terminal says who answers and how to change that, and old releases retire by themselves."""
    author.wait_for("weigh==1.0.0.dev1 answers, ")
    author.platform.run("invoke", "weigh_learn", "--tenant", "acme", "--params", '{"factor": 3}')
    author.wait_for("| learns 3.0")
    author.save("return model.factor * x", "return model.factor * x + 1")
    author.wait_for("weigh==1.0.0.dev2 answers, ")
    author.wait_for("acme.scale v1 is answered by weigh==1.0.0.dev1, which trained it;")

    def weighed() -> tuple[object, object]:
        said = json.loads(author.platform.run("invoke", "weigh", "--tenant", "acme", "--params", '{"x": 2}', "--full"))
        return said["result"], said["release"]

    assert weighed() == (6.0, "weigh==1.0.0.dev1")
    command = re.findall(r"  to have the new code answer: millstream (.*)", author.words())[-1]
    done = subprocess.run(
        f"{shipped_command()} {command}", shell=True, env=child_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    wait_for(lambda: weighed() == (7.0, "weigh==1.0.0.dev2"), 20, "the new code answers with the new version")

    author.platform.run("invoke", "weigh_learn", "--tenant", "acme", "--params", '{"factor": 3}')
    author.save("return len(text)", "return len(text) + 1")
    author.wait_for("weigh==1.0.0.dev3 answers, ")
    author.wait_for("environment_removed: 1.0.0.dev1+")


def test_it_begins_with_what_is_there_and_goes_on_where_it_was(folder: Path, tmp_path: Path) -> None:
    """A package that cannot be built yet is told and watched; a second `dev` counts on, and its models are still there."""
    source = folder / "src/weigh/__init__.py"
    whole = source.read_text()
    source.write_text(whole.replace("import millstream as ms", "import milstream as ms"))
    author = start(folder, tmp_path)
    try:
        author.wait_for("nothing is released yet; correct it and save")
        assert "No module named 'milstream'" in author.words()
        source.write_text(whole)
        author.wait_for("weigh==1.0.0.dev1 answers, ")
        author.platform.run("invoke", "weigh_learn", "--params", '{"factor": 2}')
    finally:
        assert author.end().count("ended; nothing runs any more") == 1

    again = start(folder, tmp_path)
    try:
        again.wait_for("weigh==1.0.0.dev2 answers, ")
        said = again.ask("weigh", {"x": 4})
        assert (said["result"], said["release"]) == (8.0, "weigh==1.0.0.dev1")

        again.save('version = "1.0.0"', 'version = "1.1.0rc1"', folder / "pyproject.toml")
        again.wait_for("weigh==1.1.0rc1.dev1 answers, ")
        again.save("[project]", "[project", folder / "pyproject.toml")
        again.wait_for("error[bad-package]: pyproject.toml is not TOML")
        again.wait_for("weigh==1.1.0rc1.dev1 serves on")
    finally:
        again.end()


def test_an_end_amid_a_build_leaves_nothing(author: Author) -> None:
    """Ctrl-C ends the build's children too, and the data directory can be used again at once."""
    author.wait_for("weigh==1.0.0.dev1 answers, ")
    author.save("return len(text)", "return len(text) + 1")
    author.wait_for("saved src/weigh/__init__.py")
    time.sleep(0.15)
    family = author.family()

    words = author.end()

    assert author.process.returncode == 0, words
    assert left(family) == []
    assert [path.name for path in (author.folder / ".millstream-dev/environments").iterdir() if path.name.startswith(".tmp")] == []


def test_a_killed_one_leaves_nothing_that_stands_in_the_way(folder: Path, tmp_path: Path) -> None:
    """SIGKILL amid a deployment: its workers end with it, and the next `dev` deploys what is there."""
    author = start(folder, tmp_path)
    author.wait_for("weigh==1.0.0.dev1 answers, ")
    author.save("return len(text)", "return len(text) + 1")
    author.wait_for("probe")
    author.wait_for("weigh==1.0.0.dev2")
    workers = author.family()
    author.process.kill()
    author.process.wait()
    wait_for(lambda: left(workers) == [], END_S, "its workers end with it")

    again = start(folder, tmp_path)
    try:
        wait_for(lambda: re.search(r"weigh==1\.0\.0\.dev[23] answers, ", again.words()), RELEASED_S, "it answers again")
        assert again.length()[0] == 5
    finally:
        words = again.end()
    assert again.process.returncode == 0, words


def test_a_data_directory_in_the_folder_is_not_watched(folder: Path, tmp_path: Path) -> None:
    """Its log changes all the time, and would release the same code again and again."""
    author = start(folder, tmp_path, "--data-dir", str(folder / "data"))
    try:
        author.wait_for("weigh==1.0.0.dev1 answers, ")
        time.sleep(2.0)
        assert "saved" not in author.words()
    finally:
        author.end()


def test_only_one_develops_a_folder(author: Author, tmp_path: Path) -> None:
    """The second is told who holds it, and the first goes on."""
    author.wait_for("weigh==1.0.0.dev1 answers, ")

    second = Platform(tmp_path / "unused")
    with pytest.raises(CommandFailed, match=r"error\[data-dir-held\]") as caught:
        second.run("dev", str(author.folder), timeout_s=60)

    assert caught.value.code == 5
    assert author.length() == (4, "weigh==1.0.0.dev1")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("dev", "{empty}"), 3, "error[bad-package]"),
        (("dev", "{empty}/none"), 3, "error[bad-package]"),
        (("dev", "{folder}", "--params", "{{}}"), 2, "--ask"),
        (("dev", "{folder}", "--ask", "length", "--params", "{{x"), 3, "error[bad-input]"),
        (("dev", "{folder}", "--kafka", "localhost:1"), 2, "of its own"),
        (("dev", "{folder}", "--data-dir", "{folder}"), 5, "error[data-dir-unusable]"),
    ],
)
def test_what_cannot_be_developed_is_told_at_once(folder: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    """Before a platform starts; nothing is left in the folder."""
    (tmp_path / "empty").mkdir()
    given = [each.format(empty=tmp_path / "empty", folder=folder) for each in arguments]

    with pytest.raises(CommandFailed, match=re.escape(words)) as caught:
        Platform(tmp_path / "unused").run(*given, timeout_s=60)

    assert caught.value.code == code
    assert not (folder / ".millstream-dev").exists()
