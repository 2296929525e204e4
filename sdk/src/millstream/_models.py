"""How models become flat files and come back: an author's saver and loader, else one pickle of protocol 5.

The node has checked hashes and signature of the files before a worker loads them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from millstream._declare import MODEL_CODE, ModelCode, place_of
from millstream._failures import Fault, raised
from millstream._signature import MISSING
from millstream.errors import DeclarationError
from millstream.wire import WireError

MODEL_FILE = "model.pkl"
PICKLE_PROTOCOL = 5


def save_pickle(model: object, folder: Path) -> None:
    """The saver of models that declare none."""
    import pickle

    with open(folder / MODEL_FILE, "wb") as file:
        pickle.dump(model, file, protocol=PICKLE_PROTOCOL)


def load_pickle(folder: Path) -> object:
    """The loader of models that declare none."""
    import pickle

    with open(folder / MODEL_FILE, "rb") as file:
        return pickle.load(file)  # noqa: S301 - the node has verified hashes and signature of the file


def model_code(role: str, model: str, modules: Sequence[str]) -> Callable[..., object]:
    """The saver or loader of a model: the one declared in these modules or below, else one from elsewhere, else pickle.

    Raises:
        DeclarationError: two are declared for the same model.
    """
    declared = [code for code in MODEL_CODE if code.role == role and code.model == model]
    near = [code for code in declared if is_within(code.module, modules)]
    found = _only_one(near or declared, role, model)
    if found is not None:
        return found.function
    return save_pickle if role == "saver" else load_pickle


def is_within(module: str, modules: Sequence[str]) -> bool:
    """Whether a module is one of `modules` or lies below one."""
    return any(module == outer or module.startswith(outer + ".") for outer in modules)


def load_model(loader: Callable[..., object], folder: str) -> object:
    """Run a loader.

    Raises:
        Fault: failed/model_load_failed, whatever the loader raised.
    """
    try:
        return loader(Path(folder))
    except BaseException as error:  # authors' code may raise anything, SystemExit included
        raise Fault("failed", raised(error, code="model_load_failed")) from None


def save_model(saver: Callable[..., object], model: object, folder: str) -> None:
    """Run a saver and hold what it wrote to the rule: one or more flat files.

    Raises:
        Fault: failed/pipeline_raised, for what the saver raised or wrote.
    """
    try:
        saver(model, Path(folder))
    except BaseException as error:  # as above
        raise Fault("failed", raised(error, doing="saving the model")) from None
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    odd = [entry.name for entry in entries if not entry.is_file(follow_symlinks=False)]
    if odd:
        raise _bad_save(f"the saver made {odd[0]}, which is no plain file; a model is flat files without folders or links")
    if not entries:
        raise _bad_save("the saver wrote no file; write at least one into the folder it is given")


def check_model(model: object, returns: Any) -> None:
    """Hold a trained model against the return annotation of its training, as far as isinstance can tell.

    Raises:
        Fault: failed/wrong_result.
    """
    expected = get_origin(returns) or returns
    if model is None and returns is not None and type(None) not in (expected, *get_args(returns)):
        raise _wrong_model("None", "the fitted model")
    if returns is not MISSING and expected is not Any and isinstance(expected, type) and not isinstance(model, expected):
        raise _wrong_model(f"a value of type {type(model).__name__}", expected.__name__)


def _only_one(found: list[ModelCode], role: str, model: str) -> ModelCode | None:
    if len({id(code.function) for code in found}) > 1:
        places = " and ".join(place_of(code.function) for code in found)
        raise DeclarationError(f"model {model} has two {role}s: {places}; keep one")
    return found[0] if found else None


def _bad_save(sentence: str) -> Fault:
    return Fault("failed", WireError("pipeline_raised", f"saving the model: {sentence}"))


def _wrong_model(found: str, expected: str) -> Fault:
    return Fault("failed", WireError("wrong_result", f"the training returned {found}, expected {expected}"))
