"""Model files in a folder: what somebody does to the folder itself is seen, and nothing is followed out of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from kept_models import KEY, RUN, staged_model
from millstream_server.adapters.folder_artifacts import FolderArtifacts
from millstream_server.core.errors import Failed


@pytest.fixture
def artifacts(tmp_path: Path) -> FolderArtifacts:
    return FolderArtifacts(tmp_path / "artifacts")


def test_what_a_broken_removal_left_is_removed(artifacts: FolderArtifacts) -> None:
    """Files that somebody changed, and folders among them, go as well: nothing is asked of what they are."""
    location = artifacts.seal(staged_model(artifacts))
    folder = artifacts.fetch(location)
    (folder / "model.skops").unlink()
    (folder / "deep").mkdir(mode=0)

    artifacts.remove(location)

    assert not folder.exists()


def test_a_link_is_not_followed_by_a_removal(artifacts: FolderArtifacts, tmp_path: Path) -> None:
    """What stands behind a link was never a model's."""
    location = artifacts.seal(staged_model(artifacts))
    folder = artifacts.fetch(location)
    elsewhere = folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(elsewhere)

    with pytest.raises(Failed, match="link"):
        artifacts.remove(location)

    assert (elsewhere / "model.skops").read_bytes() == b"fitted"


def test_a_folder_that_is_gone_is_damage(artifacts: FolderArtifacts) -> None:
    """Whoever looks for files that are not there hears that the model is damaged."""
    location = artifacts.seal(staged_model(artifacts))
    folder = artifacts.fetch(location)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()

    for ask in (lambda: artifacts.fetch(location), lambda: artifacts.hash_files(folder)):
        with pytest.raises(Failed) as refused:
            ask()
        assert refused.value.code == "model_damaged"


@pytest.mark.parametrize("level", [0, 1])
def test_a_link_in_the_place_of_a_folder_is_refused(artifacts: FolderArtifacts, tmp_path: Path, level: int) -> None:
    """A location whose folders are links may lead out, so it is not followed."""
    folder = artifacts.fetch(artifacts.seal(staged_model(artifacts)))
    moved = [folder, folder.parent][level]
    moved.rename(tmp_path / "elsewhere")
    moved.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(Failed):
        artifacts.fetch(f"{KEY}/{RUN}-1")
