"""What an import reads of a model's folder, and what it refuses before anything is run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream_server.core.errors import Invalid
from millstream_server.environments.mlflow_models.model import read_model
from millstream_server.environments.mlflow_models.package import plan_package, write_files, write_package
from millstream_server.environments.mlflow_models.project import read_project
from millstream_server.environments.mlflow_models.reading import MOST_DEPTH
from millstream_server.environments.mlflow_models.requirements import read_requirements

COLUMNS = '[{"type": "double", "name": "a b", "required": true}]'


def made(folder: Path, **changes: object) -> Path:
    """A model's folder that can be imported, with other members of its MLmodel (JSON is YAML)."""
    said = {
        "flavors": {"python_function": {"loader_module": "mlflow.sklearn", "model_path": "model.pkl", "python_version": "3.11.7"}},
        "mlflow_version": "3.17.2",
        "run_id": "r1",
        "signature": {"inputs": COLUMNS, "outputs": None, "params": None},
        **changes,
    }
    (folder / "data").mkdir(parents=True)
    (folder / "MLmodel").write_text(json.dumps(said))
    (folder / "model.pkl").write_bytes(b"\x80")
    (folder / "data" / "model.pkl").write_bytes(b"other")
    (folder / "requirements.txt").write_text("scikit-learn==1.9.1\n")
    return folder


def flavor(**members: object) -> dict[str, object]:
    return {"flavors": {"python_function": {"loader_module": "mlflow.sklearn", **members}}}


def test_a_model_says_what_it_needs_and_takes(tmp_path: Path) -> None:
    """Its own requirements, MLflow in the version that logged it, its Python, its columns, and where it comes from."""
    found = read_model(made(tmp_path / "m"))

    assert found.wanted.lines == ("scikit-learn==1.9.1", "mlflow==3.17.2")
    assert (found.wanted.python, found.takes.kind, found.origin["run_id"]) == ("3.11", "records", "r1")
    assert found.files == ("MLmodel", "data/model.pkl", "model.pkl", "requirements.txt")


def test_files_of_folders_lie_flat_and_the_layout_says_where_they_were(tmp_path: Path) -> None:
    """Two files of one name in two folders stay two, byte for byte."""
    found, flat = read_model(made(tmp_path / "m")), tmp_path / "flat"
    flat.mkdir()

    write_files(found, flat)

    layout = json.loads((flat / "layout.json").read_text())["files"]
    assert {path: (flat / name).read_bytes() for path, name in layout.items()} == {
        path: (found.folder / path).read_bytes() for path in found.files
    }
    assert all(each.is_file() for each in flat.iterdir())


def test_the_same_needs_and_signature_share_a_release_and_others_do_not(tmp_path: Path) -> None:
    """A release is known by what it is made of: requirements, signature, modules, Python."""
    first, second = read_model(made(tmp_path / "1")), read_model(made(tmp_path / "2", run_id="r2"))
    other = read_model(made(tmp_path / "3"), python="3.12")
    (tmp_path / "2" / "model.pkl").write_bytes(b"another model")

    modules = [plan_package(each, "churn", "churn").module for each in (first, second, other)]

    assert modules[0] == modules[1] != modules[2]


def test_nothing_that_a_model_says_becomes_code(tmp_path: Path) -> None:
    """Column names that look like code are text in a JSON file; the modules are the same for every model."""
    evil = [{"type": "double", "name": '"""; import os; os.abort() #', "required": True}]
    plans = [
        plan_package(read_model(made(tmp_path / str(number), signature={"inputs": json.dumps(inputs)})), "churn", "churn")
        for number, inputs in enumerate((evil, json.loads(COLUMNS)))
    ]

    for number, plan in enumerate(plans):
        (tmp_path / f"p{number}").mkdir()
        write_package(plan, tmp_path / f"p{number}", "1.0.0")

    sources = [{path.name: path.read_text() for path in (tmp_path / f"p{n}").rglob("*.py")} for n in (0, 1)]
    assert sources[0] == sources[1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"flavors": {"sklearn": {}}}, "no flavor python_function"),
        ({"flavors": None}, "no flavor python_function"),
        (flavor(loader_module="os; x"), "expected a module"),
        (flavor(data="../../etc/passwd"), "leads out of the model's folder"),
        (flavor(artifacts={"x": {"path": "/etc/passwd", "uri": "/was/here"}}), "leads out of the model's folder"),
        ({"signature": {"inputs": "[{]"}}, "no JSON"),
        ({"signature": {"inputs": '[{"type": "colour", "name": "a"}]'}}, "the type 'colour'"),
        ({"signature": {"inputs": '[{"type": "long", "name": "a"}, {"type": "long", "name": "a"}]'}}, "one name to two"),
        ({"signature": {"inputs": '[{"type": "tensor", "tensor-spec": {"dtype": "evil", "shape": [1]}}]'}}, "a dtype of numpy"),
        ({"signature": "none"}, "expected inputs"),
    ],
)
def test_a_model_that_cannot_be_taken_in_is_refused_with_the_reason(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    """Whatever its MLmodel says, the refusal names it, and the file."""
    with pytest.raises(Invalid) as refused:
        read_model(made(tmp_path / "m", **changes))

    assert (refused.value.code, words in refused.value.message) == ("bad_mlflow_model", True)
    assert "MLmodel" in refused.value.where


def _link(folder: Path) -> None:
    (folder / "data" / "out").symlink_to("/etc/passwd")


def _linked_folder(folder: Path) -> None:
    (folder / "etc").symlink_to("/etc")


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


def _newline(folder: Path) -> None:
    (folder / "a\nb").touch()


def _garbage(folder: Path) -> None:
    (folder / "MLmodel").write_bytes(b"\x00{[: - !!python/object/apply:os.system [x]")


def _apply(folder: Path) -> None:
    (folder / "MLmodel").write_text("flavors: !!python/object/apply:os.system ['touch pwned']")


def _laughs(folder: Path) -> None:
    rows = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 12)]
    (folder / "MLmodel").write_text("\n".join(rows))


def _deep(folder: Path) -> None:
    (folder / "MLmodel").write_text("a: " + "[" * (MOST_DEPTH * 100))


def _itself(folder: Path) -> None:
    (folder / "MLmodel").write_text("a: &a [*a]")


def _gone(folder: Path) -> None:
    (folder / "MLmodel").unlink()


@pytest.mark.parametrize("spoil", [_link, _linked_folder, _pipe, _newline, _garbage, _apply, _laughs, _deep, _itself, _gone])
def test_a_folder_that_is_no_model_is_refused(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    """A link, a pipe, a name nobody can print, YAML that is garbage, code or a bomb: each is one clear sentence."""
    folder = made(tmp_path / "m")
    spoil(folder)

    with pytest.raises(Invalid) as refused:
        read_model(folder)

    assert refused.value.code == "bad_mlflow_model"
    assert len(refused.value.message) < 1000


@pytest.mark.parametrize(
    "line",
    [
        "git+https://example.org/x.git",
        "x @ https://example.org/x-1.0-py3-none-any.whl",
        "./local-1.0.whl",
        "-e .",
        "--extra-index-url https://example.org/simple",
        "-r ../outside.txt",
        "-r needs.txt",
        "not a requirement!",
    ],
)
def test_requirements_come_from_an_index_and_nowhere_else(tmp_path: Path, line: str) -> None:
    """An address, a path, an option that says where to look, a file outside or that includes itself: refused, and the line is named."""
    (tmp_path / "outside.txt").write_text("x\n")
    (tmp_path / "in").mkdir()
    needs = tmp_path / "in" / "needs.txt"
    needs.write_text(f"numpy\n{line}\n")

    with pytest.raises(Invalid) as refused:
        read_requirements(needs)

    assert refused.value.code == "bad_requirements"
    assert "--requirements FILE" in refused.value.mend


def test_constraints_of_a_model_hold_beside_its_requirements(tmp_path: Path) -> None:
    """`-c constraints.txt`, as MLflow writes it, is read; hashes, comments and continued lines are too."""
    (tmp_path / "constraints.txt").write_text("numpy<3  # because\n")
    needs = tmp_path / "needs.txt"
    needs.write_text("-c constraints.txt\npandas==2.3.3 \\\n    --hash=sha256:00\n")

    found = read_requirements(needs)

    assert (found.lines, found.constraints) == (("pandas==2.3.3",), ("numpy<3",))


def test_a_conda_environment_of_pip_alone_will_do(tmp_path: Path) -> None:
    """Models of old name their environment in conda.yaml only; what conda itself would have to install is refused."""
    folder = made(tmp_path / "m", flavors={"python_function": {"loader_module": "mlflow.sklearn", "env": "conda.yaml"}})
    (folder / "requirements.txt").unlink()
    conda = {"dependencies": ["python=3.10.13", "pip<=23", {"pip": ["mlflow==1.30.1", "numpy"]}]}
    (folder / "conda.yaml").write_text(json.dumps(conda))

    wanted = read_model(folder).wanted

    assert (wanted.lines, wanted.python) == (("mlflow==1.30.1", "numpy"), "3.10")
    (folder / "conda.yaml").write_text(json.dumps({"dependencies": ["conda-forge::libgdal=3.8"]}))
    with pytest.raises(Invalid) as refused:
        read_model(folder)
    assert refused.value.code == "bad_requirements"


# --- projects -------------------------------------------------------------------------------------------------------------


def project(folder: Path, command: str = "python train.py {alpha}", **changes: object) -> Path:
    said = {
        "name": "wine",
        "python_env": "python_env.yaml",
        "entry_points": {"main": {"parameters": {"alpha": {"type": "float", "default": 1}}, "command": command}},
        **changes,
    }
    folder.mkdir()
    (folder / "MLproject").write_text(json.dumps(said))
    (folder / "python_env.yaml").write_text(json.dumps({"dependencies": ["mlflow"]}))
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "python train.py | tee x",
        "python a.py && python b.py",
        "echo `id`",
        "X=1 python train.py",
        "python $HOME/x.py",
        "'",
        "",
        "python {beta}",
    ],
)
def test_a_command_that_needs_a_shell_is_refused(tmp_path: Path, command: str) -> None:
    """Commands are run without one; the refusal says how to go on."""
    with pytest.raises(Invalid) as refused:
        read_project(project(tmp_path / "p", command))

    assert refused.value.code == "bad_mlproject"


@given(quoted=st.sampled_from(["'{alpha}'", '"{alpha}"', "--a={alpha}", "{alpha}"]))
def test_a_parameter_is_never_more_than_one_word(tmp_path_factory: pytest.TempPathFactory, quoted: str) -> None:
    """However the command quotes it, the words are parted before anything is filled in."""
    found = read_project(project(tmp_path_factory.mktemp("p") / "p", f"python train.py {quoted} last"))

    assert len(found.entries[0].words) == 4


def test_a_project_in_a_container_is_refused(tmp_path: Path) -> None:
    """Trainings run in virtual environments."""
    with pytest.raises(Invalid, match="docker_env"):
        read_project(project(tmp_path / "p", docker_env={"image": "x"}))
