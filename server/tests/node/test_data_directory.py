"""A data directory as a whole: made, brought up to date by numbered steps, refused where it is newer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from millstream_server import __version__, data_directory
from millstream_server.core.errors import Unavailable
from millstream_server.data_directory import DATA_FORMAT, FILE, DataFile, bring_up_to_date, described, is_newer


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A new data directory."""
    data_directory.make(tmp_path / "data")
    return tmp_path / "data"


def change(data: Path, **fields: object) -> None:
    """Let `data.json` say something else."""
    (data / FILE).write_bytes(msgspec.json.encode(msgspec.structs.replace(described(data), **fields)))


def rename(data: Path) -> None:
    """A step: bears being run on what it left."""
    if (data / "one").exists():
        (data / "one").rename(data / "two")


def extend(data: Path) -> None:
    """A step that needs the one before."""
    (data / "two").write_text((data / "two").read_text().partition("+")[0] + "+three")


def test_a_new_one_says_who_made_it(data: Path) -> None:
    """Its format and this version; a node that works in it changes nothing of that."""
    before = (data / FILE).read_bytes()

    bring_up_to_date(data)

    assert (data / FILE).read_bytes() == before
    found = described(data)
    assert (found.format, found.version, found.last) == (DATA_FORMAT, __version__, __version__)


def test_that_of_version_0_1_0_is_read_and_marked(data: Path) -> None:
    """It did not say who worked in it last: after this version's node it does, and who made it stays."""
    (data / FILE).write_text('{"format":1,"version":"0.1.0","log_id":"l","created_ms":5}')
    assert described(data).last == "0.1.0"

    bring_up_to_date(data)

    assert described(data) == DataFile(1, "0.1.0", "l", 5, __version__)


def test_a_newer_format_is_refused_with_both_versions(data: Path) -> None:
    """By doors and nodes alike, before anything is changed."""
    change(data, format=DATA_FORMAT + 1, newest="7.1.0")
    before = (data / FILE).read_bytes()

    for look in (described, bring_up_to_date):
        with pytest.raises(Unavailable) as refused:
            look(data)
        assert refused.value.code == "data_dir_too_new"
        words = f"is in format {DATA_FORMAT + 1} of version 7.1.0; this is {__version__}, which knows formats up to {DATA_FORMAT}"
        assert words in refused.value.message
        assert refused.value.mend == "run the newer version, 7.1.0, or use another --data-dir"

    assert (data / FILE).read_bytes() == before


def test_an_older_version_may_work_in_the_same_format_and_does_not_hide_the_newer(data: Path) -> None:
    """Who was set back goes on, and whoever looks sees that a newer version was here."""
    change(data, newest="7.1.0")

    bring_up_to_date(data)

    assert described(data).last == "7.1.0"
    assert is_newer(described(data).last, __version__)


def test_steps_are_made_in_their_order_and_once(data: Path) -> None:
    """From whichever format it has to the newest."""
    (data / "one").write_text("one")

    for _ in range(2):
        bring_up_to_date(data, [rename, extend])

    assert (data / "two").read_text() == "one+three"
    assert described(data, known=3).format == 3


def test_a_step_that_was_killed_is_made_again(data: Path) -> None:
    """SIGKILL when a step has done its work and has not been noted: the next node makes that step again, and those after it."""
    (data / "one").write_text("one")
    dying = (
        "import os, sys; from pathlib import Path; from millstream_server.data_directory import bring_up_to_date\n"
        "def die(data):\n    (data / 'one').rename(data / 'two')\n    os.kill(os.getpid(), 9)\n"
        "bring_up_to_date(Path(sys.argv[1]), [die])"
    )
    done = subprocess.run([sys.executable, "-c", dying, str(data)], check=False, timeout=60)
    assert (done.returncode, described(data).format) == (-9, 1)

    bring_up_to_date(data, [rename, extend])

    assert (data / "two").read_text() == "one+three"
    assert described(data, known=3).format == 3
