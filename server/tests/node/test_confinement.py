"""How the files of a model are shown to a confined worker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from millstream_server.node.confinement import Own


@pytest.fixture
def own(tmp_path: Path) -> Own:
    """The folders of a confined worker."""
    models = tmp_path / "worker" / "models"
    models.mkdir(parents=True)
    return Own(models.parent, models, None, None)


def model(folder: Path, files: dict[str, str], modules: str = "") -> Path:
    """The flat files of a model whose layout says `files`: where each was, and its flat name, which is its content too."""
    folder.mkdir()
    for name in set(files.values()):
        (folder / name).write_text(name)
    (folder / "layout.json").write_text(json.dumps({"format": 1, "modules": modules, "files": files}))
    return folder


def seen(shown: Path) -> dict[str, str]:
    return {
        path.relative_to(shown).as_posix(): path.read_text() for path in shown.rglob("*") if path.is_file() and path.name != "layout.json"
    }


def test_a_model_that_was_folders_is_shown_as_these_without_a_copy(own: Own, tmp_path: Path) -> None:
    """Beside its flat files, of which they are hard links; all of it goes when the worker needs it no more."""
    files = {"MLmodel": "00000-MLmodel", "data/model.pkl": "00001-model.pkl"}

    shown = own.show(model(tmp_path / "model", files))

    assert seen(shown) == {name: name for name in files.values()} | {f".folder/{path}": name for path, name in files.items()}
    assert (shown / ".folder" / "data" / "model.pkl").samefile(tmp_path / "model" / "00001-model.pkl")
    own.hide(shown)
    assert not shown.exists()
    assert (tmp_path / "model" / "00001-model.pkl").read_text() == "00001-model.pkl"


@pytest.mark.parametrize(
    ("files", "modules"),
    [
        ({"../out": "a"}, ""),
        ({"/out": "a"}, ""),
        ({"a": "a", "a/b": "b"}, ""),
        ({"a/b": "b", "a": "a"}, ""),
        ({"a": "a", "b": "a"}, ""),
        ({"code/own.py": "a"}, "code"),
    ],
    ids=["leads out", "is absolute", "a file that is a folder", "a folder that is a file", "twice", "with modules"],
)
def test_what_is_no_folder_or_outlives_its_model_is_shown_flat(own: Own, tmp_path: Path, files: dict[str, str], modules: str) -> None:
    """The worker says what is wrong, or copies what it imports from; nothing is written beside the model's own place."""
    shown = own.show(model(tmp_path / "model", files, modules))

    assert seen(shown) == {name: name for name in files.values()}
    assert sorted(path.name for path in shown.parent.iterdir()) == [shown.name]
