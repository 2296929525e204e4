"""The decorators: what they note about a function, and the registry that the worker and `build` read.

A decorator returns the function it was given, so authors' tests, pickles and other code see a plain function.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, overload

from millstream._signature import Signature, read_signature
from millstream.errors import DeclarationError

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Concatenate

    from millstream._gate import Bound
    from millstream._run import Run

F = TypeVar("F", bound="Callable[..., object]")
T = TypeVar("T", bound="Callable[Concatenate[Run, ...], object]")
S = TypeVar("S", bound="Callable[[Any, Path], object]")
L = TypeVar("L", bound="Callable[[Path], object]")

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_RETRYABLE = "__millstream_retryable__"
_PIPELINE = "__millstream_pipeline__"


class Pipeline:
    """One declaration. `signature` is read at once where every annotation is defined already, else when first asked for."""

    __slots__ = ("_local_names", "_signature", "function", "gate", "kind", "model", "name", "rows_independent", "timeout_s")

    def __init__(
        self,
        function: Callable[..., object],
        kind: str,
        name: str,
        model: str,
        rows_independent: bool,
        timeout_s: float | None,
        local_names: dict[str, Any],
        gate: tuple[Bound, ...] = (),
    ) -> None:
        self.function = function
        self.gate = gate
        self.kind = kind
        self.name = name
        self.model = model
        self.rows_independent = rows_independent
        self.timeout_s = timeout_s
        self._local_names = local_names
        self._signature: Signature | None = None

    @property
    def signature(self) -> Signature:
        """Raises `DeclarationError` where the function cannot be a pipeline."""
        if self._signature is None:
            try:
                self._signature = self._read()
            except NameError as error:
                raise DeclarationError(f"{place_of(self.function)}: an annotation cannot be resolved: {error}") from None
            self._local_names = {}
        return self._signature

    def try_signature(self) -> None:
        """Read the signature now, or leave it for later where an annotation names what the module defines further down."""
        try:
            self._signature = self._read()
        except NameError:
            return
        self._local_names = {}

    @property
    def retryable_types(self) -> tuple[type, ...]:
        return getattr(self.function, _RETRYABLE, ())

    @property
    def module(self) -> str:
        return self.function.__module__

    def _read(self) -> Signature:
        return read_signature(
            self.function,
            kind=self.kind,
            has_model=bool(self.model),
            rows_independent=self.rows_independent,
            local_names=self._local_names,
        )


class ModelCode:
    """A declared saver or loader of one model."""

    __slots__ = ("function", "model", "role")

    def __init__(self, role: str, model: str, function: Callable[..., object]) -> None:
        self.role = role
        self.model = model
        self.function = function

    @property
    def module(self) -> str:
        return self.function.__module__


PIPELINES: list[Pipeline] = []
MODEL_CODE: list[ModelCode] = []


@overload
def training(
    *, model: str, timeout_s: float | None = None, name: str | None = None, gate: str | Sequence[str] = ()
) -> Callable[[T], T]: ...


@overload
def training(function: Callable[..., object], /) -> NoReturn: ...


def training(
    function: Callable[..., object] | None = None,
    /,
    *,
    model: str | None = None,
    timeout_s: float | None = None,
    name: str | None = None,
    gate: str | Sequence[str] = (),
) -> Callable[[T], T]:
    """Declare a function that makes a model: `fn(run: ms.Run, **parameters) -> model`.

    Args:
        function: nothing; the decorator is always used with arguments.
        model: the model's name; each tenant has its own model under it.
        timeout_s: seconds that one attempt may take; without it the node's limit holds.
        name: the pipeline's name; the function's name where left out.
        gate: what the run's metrics must show before its model answers, such as "f1 >= 0.8" or "f1 >= champion - 0.01"; of several all
            must hold. A model that is held back is kept as a version, and answers when somebody promotes it.

    Raises:
        DeclarationError: the function cannot be a training, or the gate is no condition.
    """
    if model is None:
        place = f"{place_of(function)}: " if function is not None else ""
        raise DeclarationError(f'{place}a training makes a model, so it needs the model\'s name; write @ms.training(model="a-name")')
    named = _check_name("model", model)

    def declare(function: T) -> T:
        bounds = _read_gate(gate, function) if gate else ()
        _register(function, "training", name, named, False, timeout_s, sys._getframe(1).f_locals, bounds)
        return function

    return declare


@overload
def inference(function: F, /) -> F: ...


@overload
def inference(
    *, model: str | None = None, rows_independent: bool = False, timeout_s: float | None = None, name: str | None = None
) -> Callable[[F], F]: ...


def inference(
    function: F | None = None,
    /,
    *,
    model: str | None = None,
    rows_independent: bool = False,
    timeout_s: float | None = None,
    name: str | None = None,
) -> F | Callable[[F], F]:
    """Declare a function that answers requests; `@ms.inference` alone or with arguments.

    Args:
        function: the function, where the decorator is used without arguments.
        model: the model's name; the first parameter is then the tenant's loaded model.
        rows_independent: a promise that output i depends on row i alone. The platform may then join the rows of several
            callers in one call, and checks that the answer has one output for each row.
        timeout_s: seconds that one attempt may take; without it the node's limit holds.
        name: the pipeline's name; the function's name where left out.

    Raises:
        DeclarationError: the function cannot be an inference.
    """
    if model is not None:
        _check_name("model", model)

    def declare(declared: F, local_names: dict[str, Any] | None = None) -> F:
        names = sys._getframe(1).f_locals if local_names is None else local_names
        _register(declared, "inference", name, model or "", rows_independent, timeout_s, names)
        return declared

    return declare if function is None else declare(function, sys._getframe(1).f_locals)


def saver(model: str) -> Callable[[S], S]:
    """Declare how a model is saved: `fn(model, folder: Path)` writes flat files into the empty folder."""
    _check_name("model", model)

    def declare(function: S) -> S:
        MODEL_CODE.append(ModelCode("saver", model, function))
        return function

    return declare


def loader(model: str) -> Callable[[L], L]:
    """Declare how a model is loaded: `fn(folder: Path) -> model` reads the files that the saver wrote."""
    _check_name("model", model)

    def declare(function: L) -> L:
        MODEL_CODE.append(ModelCode("loader", model, function))
        return function

    return declare


def retryable(*exceptions: type[Exception]) -> Callable[[F], F]:
    """Declare exceptions of a pipeline after which trying again later may help, such as `ConnectionError`.

    May stand above or below `@ms.inference`. For a single place, raise `ms.Retryable` instead.
    """
    for exception in exceptions:
        if not (isinstance(exception, type) and issubclass(exception, Exception)):
            raise DeclarationError(f"@ms.retryable takes exception classes, such as ConnectionError; {exception!r} is none")
    if not exceptions:
        raise DeclarationError("@ms.retryable names the exceptions after which trying again may help: @ms.retryable(ConnectionError)")

    def declare(function: F) -> F:
        setattr(function, _RETRYABLE, (*getattr(function, _RETRYABLE, ()), *exceptions))
        return function

    return declare


def pipeline_of(function: Callable[..., object]) -> Pipeline:
    """The declaration of a decorated function.

    Raises:
        DeclarationError: the function was not decorated.
    """
    found = getattr(function, _PIPELINE, None)
    if not isinstance(found, Pipeline):
        raise DeclarationError(f"{function!r} is not a pipeline; decorate it with @ms.inference or @ms.training(model=...)")
    return found


def place_of(function: Callable[..., object]) -> str:
    """`detect (pipelines.py:41)`, as messages name a function."""
    code = getattr(function, "__code__", None)
    where = f" ({code.co_filename}:{code.co_firstlineno})" if code else ""
    return f"{getattr(function, '__qualname__', function)}{where}"


def _register(
    function: Callable[..., object],
    kind: str,
    name: str | None,
    model: str,
    rows_independent: bool,
    timeout_s: float | None,
    local_names: dict[str, Any],
    gate: tuple[Bound, ...] = (),
) -> None:
    if getattr(function, _PIPELINE, None) is not None:
        raise DeclarationError(f"{place_of(function)}: the function is declared twice; use one of @ms.training and @ms.inference")
    chosen = name if name is not None else getattr(function, "__name__", "")
    _check_name("name", chosen, function)
    _check_timeout(timeout_s, function)
    closed_over = {} if local_names is getattr(function, "__globals__", None) else dict(local_names)
    pipeline = Pipeline(function, kind, chosen, model, rows_independent, timeout_s, closed_over, gate)
    pipeline.try_signature()
    setattr(function, _PIPELINE, pipeline)
    PIPELINES.append(pipeline)


def _read_gate(gate: object, function: Callable[..., object]) -> tuple[Bound, ...]:
    from millstream._gate import read_gate  # here, because few trainings have one and every start pays for what is imported

    return read_gate(gate, place_of(function))


def _check_name(argument: str, value: object, function: Callable[..., object] | None = None) -> str:
    if isinstance(value, str) and _NAME.match(value):
        return value
    place = f"{place_of(function)}: " if function is not None else ""
    raise DeclarationError(f"{place}{argument}={value!r} is no name; use letters, digits, - and _, at most 64")


def _check_timeout(timeout_s: object, function: Callable[..., object]) -> None:
    if timeout_s is None or (isinstance(timeout_s, (int, float)) and not isinstance(timeout_s, bool) and 0 < timeout_s < 1e9):
        return
    raise DeclarationError(f"{place_of(function)}: timeout_s={timeout_s!r} is no time limit; give a number of seconds above 0")
