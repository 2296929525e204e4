"""Models that plain scripts logged with MLflow 2 and 3, and a project of MLflow: imported or built, they answer as MLflow itself does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running_platform import Running, Said

ROOT = Path(__file__).parents[2]
MADE = ROOT / ".mlflow-makers"
PROJECT = ROOT / "tests" / "mlflow_makers" / "wine"
IMPORT_S = 300.0
"""An import takes ten seconds where the machine is quiet: two environments, and scikit-learn imported in each of three processes."""

pytestmark = [pytest.mark.xdist_group("mlflow models"), pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`millstream up` on a new data directory."""
    running = Running.start(tmp_path_factory.mktemp("mlflow-models") / "data", {"MILLSTREAM_NODE_SPARE_WORKERS": "0"})
    yield running
    assert running.close() == 0


def model(name: str) -> Path:
    """A model's folder, such as `3/mood`: who made it, and its name."""
    maker, _, own = name.partition("/")
    folder = MADE / maker / "models" / own
    assert folder.is_dir(), f"{folder} is missing; run: make mlflow-makers"
    return folder


def expected(name: str) -> dict[str, Any]:
    """What the maker asked, and what `mlflow.pyfunc.load_model` answered there."""
    folder = model(name)
    told: dict[str, Any] = json.loads(folder.with_name(f"{folder.name}.expected.json").read_text())
    return told


def bring(running: Running, folder: Path, name: str, *options: str) -> Said:
    return running.say("models", "import", str(folder), "--tenant", "acme", "--name", name, *options, timeout_s=IMPORT_S)


def ask(running: Running, pipeline: str, params: dict[str, object]) -> Any:
    """What a pipeline answers."""
    said = running.say("invoke", pipeline, "--tenant", "acme", "--params", json.dumps(params))
    assert said.code == 0, said.err
    return json.loads(said.out)


def versions(running: Running, key: str) -> list[dict[str, Any]]:
    said = running.platform.ask("models", "show", key, "--json")
    assert isinstance(said, dict)
    found: list[dict[str, Any]] = said["versions"]
    return sorted(found, key=lambda one: int(one["version"]))


@pytest.fixture(scope="module")
def mood(running: Running) -> Running:
    """The platform with the model of code and parameters, `mood`, imported for acme."""
    said = bring(running, model("3/mood"), "mood")
    assert said.code == 0, said.err
    return running


@pytest.mark.parametrize("name", ["2/iris", "2/boosted", "3/forest", "3/line"])
def test_an_imported_model_answers_as_mlflow_does(running: Running, name: str) -> None:
    """Of scikit-learn, LightGBM and ONNX: every prediction is the very number that MLflow gave where the model was logged."""
    told, own = expected(name), name.partition("/")[2]

    said = bring(running, model(name), own)

    assert said.code == 0, said.err
    assert ask(running, own, {"inputs" if own == "line" else "rows": told["asked"]}) == told["answered"]
    assert in_tmp(running, own) == []


def in_tmp(running: Running, package: str) -> list[str]:
    """Copies of models in the /tmp of a package's workers, which is memory; there is at least one worker to look at."""
    rows = (running.up().status() or {})["releases"]
    assert isinstance(rows, list)
    pids = [worker["pid"] for row in rows if row["package"] == package for worker in row["workers"] if worker["state"] != "starting"]
    assert pids
    return [str(path) for pid in pids for path in Path(f"/proc/{pid}/root/tmp").glob("mlflow-scratch-*")]


def test_a_model_of_code_answers_with_its_parameters_and_says_where_it_comes_from(mood: Running) -> None:
    """Its modules and files are found, its parameters are given, and its lineage names the folder, who imported it and MLflow's run."""
    told = expected("3/mood")

    answered = ask(mood, "mood", {"rows": told["asked"], "params": told["params"]})

    assert answered == told["answered"]
    (first, *_) = versions(mood, "acme.mood")
    said = first["params"]
    assert said["imported_from"] == str(model("3/mood"))
    assert "@" in said["imported_by"]
    assert said["mlflow_run_id"] in (model("3/mood") / "MLmodel").read_text()


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({"rows": [{"text": "fine"}, {}]}, "$.rows[1].text"),
        ({"rows": [{"text": 7}]}, "$.rows[0].text"),
        ({"rows": {"text": "fine"}}, "$.rows"),
        ({"rows": [{"text": "fine"}], "params": {"bonus": "much"}}, "$.params.bonus"),
        ({"rows": [{"text": "fine"}], "params": {"malus": 1.0}}, "$.params.malus"),
        ({"inputs": [{"text": "fine"}]}, "$"),
    ],
)
def test_what_the_signature_does_not_allow_is_the_callers_fault(mood: Running, params: dict[str, object], path: str) -> None:
    """A missing column, another type and an unknown parameter are invalid, with the place; the model is not asked."""
    said = mood.say("invoke", "mood", "--tenant", "acme", "--params", json.dumps(params))

    assert said.code != 0
    assert "error[bad-parameters]" in said.err
    assert path in said.err


def test_a_further_version_shares_the_release_and_waits_until_it_is_promoted(mood: Running, tmp_path: Path) -> None:
    """With the same requirements, signature and modules nothing is built; `--no-promote` leaves the answers as they are."""
    changed = tmp_path / "mood"
    shutil.copytree(model("3/mood"), changed)
    (changed / "artifacts" / "limits.json").write_text('{"limit": -9.0}')
    asked: dict[str, object] = {"rows": [{"text": "bad"}]}

    said = bring(mood, changed, "mood", "--no-promote")

    assert said.code == 0, said.err
    assert "mood==1.0.0 serves it as it is" in said.err
    assert ask(mood, "mood", asked)[0]["good"] is False
    newest = versions(mood, "acme.mood")[-1]
    assert newest["release"] == "1.0.0"
    mood.platform.run("models", "promote", "acme.mood", str(newest["version"]))
    assert ask(mood, "mood", asked)[0]["good"] is True
    mood.platform.run("models", "rollback", "acme.mood")


def test_other_modules_are_another_release_and_both_answer(mood: Running, tmp_path: Path) -> None:
    """A process imports a name once, so a model whose modules differ gets a release of its own; the version before answers as ever."""
    changed = tmp_path / "mood"
    shutil.copytree(model("3/mood"), changed)
    table = changed / "code" / "lexicon" / "deep" / "table.py"
    table.write_text(table.read_text().replace("1.5", "10.0"))
    asked: dict[str, object] = {"rows": [{"text": "fine"}], "params": {"bonus": 0.0}}

    said = mood.say("models", "import", str(changed), "--tenant", "globex", "--name", "mood", timeout_s=IMPORT_S)

    assert said.code == 0, said.err
    other = mood.say("invoke", "mood", "--tenant", "globex", "--params", json.dumps(asked))
    assert json.loads(other.out)[0]["score"] == 10.0
    assert ask(mood, "mood", asked)[0]["score"] == 1.5
    assert versions(mood, "globex.mood")[0]["release"] == "2.0.0"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--python", "3.99"], "no-interpreter"),
        (["--requirements", "NEEDS"], "lock-unresolvable"),
        (["--pipeline", "no/name"], "bad-name"),
    ],
)
def test_an_import_that_cannot_be_built_changes_nothing(running: Running, tmp_path: Path, options: list[str], code: str) -> None:
    """The error names what is wrong and what to do, and neither a release nor a model is there afterwards."""
    needs = tmp_path / "needs.txt"
    needs.write_text("mlflow-skinny==99.0.0\n")

    said = bring(running, model("3/mood"), "never", *(str(needs) if one == "NEEDS" else one for one in options))

    assert said.code != 0
    assert f"error[{code}]" in said.err
    assert "mend: " in said.err
    assert running.say("models", "show", "acme.never").code != 0
    assert "never" not in running.say("releases", "list", "--json").out


def test_a_project_trains_and_answers_and_no_parameter_is_run(running: Running, tmp_path: Path) -> None:
    """Its command runs in the run's worker; what it logged is the model, its metrics are the run's, and its parameters stay words."""
    trap = tmp_path / "trap"
    built = running.say("build", str(PROJECT), "--out", str(tmp_path), timeout_s=IMPORT_S)
    assert built.code == 0, built.err
    deployed = running.deploy(Path(built.out.strip()))
    assert deployed.code == 0, deployed.err
    params = {"alpha": 2.0, "note": f"$(touch {trap}); --x", "data": "[[1, 10], [3, 20]]"}

    trained = ask(running, "wine_train", params)

    assert (trained["model"], trained["version"], trained["metrics"]) == ("acme.wine", 1, {"rows": 2.0})
    assert ask(running, "wine_predict", {"rows": [{"age": 1.0}, {"age": 2.5}]}) == [17.0, 20.0]
    assert not trap.exists()
    misfit = running.say("invoke", "wine_predict", "--tenant", "acme", "--params", '{"rows": [{"age": "old"}]}')
    assert "Expected `float | null`, got `str`" in misfit.err
    failed = running.say("invoke", "wine_train", "--tenant", "acme", "--params", '{"data": "no JSON"}')
    assert failed.code != 0
    assert "ended with code 1" in failed.err
    taken = bring(running, model("3/mood"), "wine")
    assert "error[pipeline-name-taken]" in taken.err
