"""Runs of a training: what it may tell, what becomes of its model, how it fails or is cancelled."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import millstream as ms
import pytest
from millstream import testing
from millstream._models import model_code
from millstream.testing import Refused, train


class Forest:
    def __init__(self, trees: int) -> None:
        self.trees = trees


@ms.training(model="forest")
def grow(run: ms.Run, trees: int, start: str | None = None) -> Forest:
    with run.step("load"):
        run.log(f"{trees} trees for {run.tenant}, attempt {run.attempt}")
    with run.step("fit"), run.step("inner"):
        run.metric("trees", 1)
        run.metric("trees", trees)
    if start is not None:
        run.log((run.artifact(start) / "model.pkl").name)
    return Forest(trees)


@ms.training(model="lines")
def write_lines(run: ms.Run, names: list[str]) -> list[str]:
    return names


@ms.saver("lines")
def save_lines(model: list[str], folder: Path) -> None:
    for name in model:
        if name.endswith("/"):
            (folder / name).mkdir()
        else:
            (folder / name).write_text(name)


@ms.loader("lines")
def load_lines(folder: Path) -> list[str]:
    names = sorted(file.name for file in folder.iterdir())
    if "unreadable" in names:
        raise OSError("cannot read this one")
    return names


def test_a_run_s_steps_metrics_logs_and_model_are_what_the_author_told() -> None:
    """Steps end in order, the last value of a metric stands, and the model has been through its files."""
    trained = train(grow, {"trees": 3}, tenant="acme", attempt=2)

    assert isinstance(trained.model, Forest)
    assert trained.model.trees == 3
    assert trained.metrics == {"trees": 3.0}
    assert trained.steps == [("load", "ok"), ("inner", "ok"), ("fit", "ok")]
    assert trained.logs == ["3 trees for acme, attempt 2"]
    assert list(trained.files) == ["model.pkl"]


def test_a_declared_saver_and_loader_make_and_read_the_files() -> None:
    """The saver's flat files are the model; the loader gets their folder."""
    trained = train(write_lines, {"names": ["b", "a"]})

    assert trained.model == ["a", "b"]
    assert trained.files == {"a": b"a", "b": b"b"}


@pytest.mark.parametrize(
    ("names", "code", "sentence"),
    [
        (["a", "folder/"], "pipeline_raised", "the saver made folder, which is no plain file"),
        ([], "pipeline_raised", "the saver wrote no file"),
        (["a", "missing/x"], "pipeline_raised", "saving the model: FileNotFoundError"),
        (["unreadable"], "model_load_failed", "OSError: cannot read this one, at test_trainings.py"),
    ],
)
def test_a_model_that_cannot_be_saved_or_loaded_is_the_run_s_failure(names: list[str], code: str, sentence: str) -> None:
    """What the saver leaves is held to the rule of flat files, and exceptions are told with their place."""
    with pytest.raises(Refused, match=sentence) as refusal:
        train(write_lines, {"names": names})

    assert refusal.value.code == code


def test_an_artifact_of_the_tenant_is_a_folder(tmp_path: Path) -> None:
    """run.artifact answers with the folder of another model's files, and CallError tells why there is none."""
    (tmp_path / "model.pkl").write_bytes(b"")

    assert train(grow, {"trees": 1, "start": "other"}, artifacts={"other": tmp_path}).logs[-1] == "model.pkl"
    with pytest.raises(Refused, match="pipeline_raised: CallError: the test gave no artifact of model other"):
        train(grow, {"trees": 1, "start": "other"})


def _training(body: Callable[[ms.Run], Any]) -> Callable[..., Any]:
    @ms.training(model="m")
    def made(run: ms.Run) -> Forest:
        return body(run)  # type: ignore[no-any-return]

    return made


def _failing_step(run: ms.Run) -> None:
    with run.step("load"):
        raise KeyError("no column")


@pytest.mark.parametrize(
    ("body", "code", "sentence"),
    [
        (_failing_step, "pipeline_raised", "KeyError: 'no column', at test_trainings.py"),
        (lambda run: run.metric("loss", math.nan), "pipeline_raised", "metric loss is nan; a metric is a finite number"),
        (lambda run: run.metric("", 1), "pipeline_raised", "a metric's name has 1 to 200 characters"),
        (lambda run: exit(3), "pipeline_raised", "SystemExit: 3"),
        (lambda run: None, "wrong_result", "the training returned None, expected the fitted model"),
        (lambda run: {"a": 1}, "wrong_result", "the training returned a value of type dict, expected Forest"),
        (lambda run: _raise(ms.Cancelled("by itself")), "pipeline_raised", "Cancelled: by itself"),
    ],
)
def test_a_training_that_fails_says_why(body: Callable[[ms.Run], Any], code: str, sentence: str) -> None:
    """Exceptions, sys.exit, odd metrics and models of the wrong type end the run with a code and a sentence."""
    with pytest.raises(Refused, match=sentence) as refusal:
        train(_training(body))

    assert refusal.value.code == code


def _raise(error: BaseException) -> None:
    raise error


def test_a_training_can_be_called_as_the_function_it_is() -> None:
    """testing.run gives a Run whose metrics can be read, and one that was cancelled raises in check."""
    run = testing.run(tenant="acme")

    assert grow(run, 2).trees == 2
    assert run.metrics == {"trees": 2.0}
    assert not run.cancelled
    with pytest.raises(ms.Cancelled, match="run test-run was asked to stop"):
        testing.run(cancelled=True).check()


def test_two_savers_of_one_model_are_refused() -> None:
    """A model has one saver within a package."""

    @ms.saver("twice")
    def first(model: object, folder: Path) -> None: ...

    @ms.saver("twice")
    def second(model: object, folder: Path) -> None: ...

    with pytest.raises(ms.DeclarationError, match=r"model twice has two savers: .*first .* and .*second"):
        model_code("saver", "twice", ["test_trainings"])


def test_the_wrong_helper_names_the_right_one() -> None:
    """testing.call on a training, and testing.train on an inference, say what to use."""

    @ms.inference
    def answer(a: int) -> int:
        return a

    with pytest.raises(TypeError, match=r"use millstream\.testing\.train"):
        testing.call(grow, {"trees": 1})
    with pytest.raises(TypeError, match=r"use millstream\.testing\.call"):
        train(answer)
    with pytest.raises(ms.DeclarationError, match="is not a pipeline; decorate it"):
        testing.call(len)
    with pytest.raises(ValueError, match=r"params hold NaN or infinity at \$\.a"):
        testing.call(answer, {"a": math.nan})


def test_a_training_may_say_that_it_returns_anything() -> None:
    """`-> Any` promises no type, so no type is held against the model."""

    def fit(run: ms.Run) -> Any:
        return {"slope": 2}

    trained = testing.train(ms.training(model="line")(fit), {})

    assert trained.model == {"slope": 2}
