"""What the decorators take, and with which sentence they refuse."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import millstream as ms
import millstream.testing
import msgspec
import pytest
from millstream._declare import pipeline_of
from millstream._manifest import describe_pipeline
from millstream._signature import Signature


@dataclass
class Reading:
    value: float


class Foreign:
    pass


@ms.inference(name="of-module-level", timeout_s=2.5)
def plain(a: int, b: int = 1) -> int:
    return a + b


def _signature(function: Callable[..., object]) -> Signature:
    return pipeline_of(function).signature


def test_a_decorated_function_is_the_function_it_was() -> None:
    """The decorator returns the very function: it is called, pickled and inspected as before."""
    assert plain(2) == 3
    assert pickle.loads(pickle.dumps(plain)) is plain


def test_a_declaration_keeps_its_settings() -> None:
    """Name, kind, model and time limit are what the author wrote; the name is the function's where left out."""

    @ms.training(model="anomaly")
    def fit(run: ms.Run, n: int) -> list[int]:
        return [n]

    @ms.inference
    def bare() -> int:
        return 1

    assert (pipeline_of(plain).name, pipeline_of(plain).kind, pipeline_of(plain).timeout_s) == ("of-module-level", "inference", 2.5)
    assert (pipeline_of(fit).name, pipeline_of(fit).kind, pipeline_of(fit).model) == ("fit", "training", "anomaly")
    assert (pipeline_of(bare).name, pipeline_of(bare).model) == ("bare", "")


def test_the_annotation_of_the_first_parameter_after_the_model_tells_the_shape() -> None:
    """list[...] is a list, everything else is one row; the model is no parameter of a request."""

    @ms.inference(model="m")
    def listed(model: object, readings: list[Reading], k: int = 1) -> list[float]:
        return []

    @ms.inference(model="m")
    def row(model, reading: Reading, others: list[int]) -> float:  # type: ignore[no-untyped-def]
        return 0.0

    assert (_signature(listed).shape, _signature(listed).rows) == ("list", _signature(listed).parameters[0])
    assert [p.name for p in _signature(listed).parameters] == ["readings", "k"]
    assert (_signature(row).shape, _signature(row).rows) == ("row", None)


def test_constraints_in_annotations_are_kept() -> None:
    """Annotated[...] with msgspec.Meta stays part of the contract."""

    @ms.inference
    def bounded(rows: Annotated[list[int], msgspec.Meta(max_length=3)], share: Annotated[float, msgspec.Meta(le=1)] = 0.5) -> int:
        return 0

    assert _signature(bounded).shape == "list"
    with pytest.raises(ms.testing.Refused, match=r"\$\.share"):
        ms.testing.call(bounded, {"rows": [1], "share": 1.5})


class Tree(msgspec.Struct):
    value: int
    children: list[Tree] = []


def test_recursive_types_are_rows_too() -> None:
    """A type that contains itself is read, described and checked."""

    @ms.inference
    def depth(tree: Tree) -> Tree:
        return tree.children[0]

    assert ms.testing.call(depth, {"tree": {"value": 1, "children": [{"value": 2}]}}) == {"value": 2, "children": []}
    assert "Tree" in describe_pipeline(pipeline_of(depth)).parameters["$defs"]  # type: ignore[operator]


def test_parameters_may_have_any_name() -> None:
    """Names that mean something to Python or to the decoder are plain parameter names; a pipeline's name may begin with a digit."""

    @ms.inference(name="1-odd_name")
    def odd(self: int, cls: int, type: int, _private: int, name: int, params: int, encoded: int = 1) -> int:
        return self + cls + type + _private + name + params + encoded

    assert ms.testing.call(odd, dict.fromkeys(("self", "cls", "type", "_private", "name", "params"), 1)) == 7


def test_types_of_the_enclosing_function_and_later_ones_of_the_module_are_found() -> None:
    """Annotations are resolved with the names around the function; one that comes later is waited for."""

    @dataclass
    class Local:
        x: int

    @ms.inference
    def uses_local(row: Local) -> int:
        return row.x

    assert ms.testing.call(uses_local, {"row": {"x": 3}}) == 3
    assert ms.testing.call(uses_later, {"row": {"y": 4}}) == 4


@ms.inference
def uses_later(row: Later) -> int:
    return row.y


@dataclass
class Later:
    y: int


def test_annotations_are_those_of_the_function_inside_other_decorators() -> None:
    """A decorator of the author's own that uses functools.wraps may stand below ours; `= None` changes no type."""

    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    @ms.inference
    @logged
    def wrapped(rows: list[Later], n: int = None) -> list[int]:  # type: ignore[assignment]  # noqa: RUF013
        return [row.y for row in rows]

    assert _signature(wrapped).parameters[1].annotation is int
    assert ms.testing.call(wrapped, {"rows": [{"y": 1}]}) == [1]


def test_an_injected_request_is_no_parameter() -> None:
    """A parameter annotated ms.Request is filled by the platform and hidden from callers, wherever it stands."""

    @ms.inference
    def who(request: ms.Request, rows: list[int]) -> list[str]:
        return [request.id, request.tenant, str(request.attempt)]

    assert (_signature(who).shape, [p.name for p in _signature(who).parameters]) == ("list", ["rows"])
    assert ms.testing.call(who, {"rows": []}, id="a7", tenant="acme", attempt=2) == ["a7", "acme", "2"]
    with pytest.raises(ms.testing.Refused, match="unknown field `request`"):
        ms.testing.call(who, {"rows": [], "request": {}})


# --- refusals ---------------------------------------------------------------------------------------------------------


def _of_row(row: int) -> int:
    return row


def _nothing() -> int:
    return 0


def _no_annotation(a) -> int:  # type: ignore[no-untyped-def]
    return 0


def _stars(*args: int) -> int:
    return 0


def _double_stars(**kwargs: int) -> int:
    return 0


def _positional(a: int, /) -> int:
    return 0


def _foreign(readings: list[int], window: Foreign) -> int:
    return 0


def _nested_foreign(window: dict[str, list[Foreign]]) -> int:
    return 0


def _two_lists(window: list[int] | set[int]) -> int:
    return 0


def _returns_foreign(a: int) -> Foreign:
    return Foreign()


def _takes_run(run: ms.Run) -> int:
    return 0


def _two_requests(a: ms.Request, b: ms.Request) -> int:
    return 0


def _sum_of_list(rows: list[int]) -> int:
    return 0


def _with_request(rows: list[int], request: ms.Request) -> list[int]:
    return rows


def _with_default(rows: list[int] = []) -> list[int]:  # noqa: B006
    return rows


async def _coroutine(a: int) -> int:
    return a


def _generator(a: int) -> Any:
    yield a


joined = {"rows_independent": True}

INFERENCE_REFUSALS: list[tuple[Callable[..., object], dict[str, Any], str]] = [
    (_of_row, joined, r"rows_independent=True promises .* must be list\[\.\.\.\], numpy.ndarray, .*; its first is row: int"),
    (_nothing, joined, "rows_independent=True promises .* it has none"),
    (_nothing, {"model": "m"}, "model= was given, so the first parameter is the model, but there is no parameter"),
    (_sum_of_list, joined, r"the return type must be list\[\.\.\.\], numpy.ndarray or a series or frame .*; it is int"),
    (_with_request, joined, "parameter request is an ms.Request, but rows_independent=True joins several requests"),
    (_with_default, joined, "the rows parameter rows must be sent; remove its default"),
    (_no_annotation, {}, "parameter a has no type annotation"),
    (_stars, {}, r"parameter \*args has no name"),
    (_double_stars, {}, r"parameter \*\*kwargs has no name"),
    (_positional, {}, "parameter a is positional-only"),
    (_foreign, {}, "parameter window: Foreign cannot be read from JSON; use a dataclass"),
    (_nested_foreign, {}, "parameter window: Foreign cannot be read from JSON"),
    (_two_lists, {}, "parameter window: .* cannot be read from JSON: Type unions may not contain"),
    (_returns_foreign, {}, "the return type Foreign cannot be written as JSON"),
    (_takes_run, {}, "parameter run is an ms.Run, which only the first parameter of a training can be"),
    (_two_requests, {}, "parameters a and b are both ms.Request"),
    (_coroutine, {}, "async functions and generators are not run"),
    (_generator, {}, "async functions and generators are not run"),
    (_of_row, {"name": "no name"}, "name='no name' is no name; use letters, digits, - and _, at most 64"),
    (_of_row, {"name": "x" * 65}, "is no name"),
    (_of_row, {"model": "a.b"}, "model='a.b' is no name"),
    (_of_row, {"timeout_s": 0}, "timeout_s=0 is no time limit"),
    (_of_row, {"timeout_s": "5"}, "timeout_s='5' is no time limit"),
    (len, {}, "is not a function"),
]


@pytest.mark.parametrize(("function", "settings", "sentence"), INFERENCE_REFUSALS)
def test_an_inference_that_cannot_work_is_refused_at_import(
    function: Callable[..., object], settings: dict[str, Any], sentence: str
) -> None:
    """The decorator itself raises, and its sentence names what is wrong and what to write."""
    with pytest.raises(ms.DeclarationError, match=sentence):
        ms.inference(**settings)(function)


def _run_missing() -> list[int]:
    return []


def _run_without_annotation(run, n: int) -> list[int]:  # type: ignore[no-untyped-def]
    return []


def _run_is_something_else(n: int) -> list[int]:
    return []


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (_run_missing, r"write \(run: ms.Run, ...\)"),
        (_run_without_annotation, r"write run: ms.Run \(it is run without an annotation\)"),
        (_run_is_something_else, r"write n: ms.Run \(it is n: int\)"),
    ],
)
def test_a_training_starts_with_its_run(function: Callable[..., object], sentence: str) -> None:
    """Without ms.Run as first parameter the decorator raises."""
    with pytest.raises(ms.DeclarationError, match=sentence):
        ms.training(model="m")(function)


def test_a_training_needs_the_name_of_its_model() -> None:
    """Both spellings without a model are refused, the bare one with the place of the function."""
    with pytest.raises(ms.DeclarationError, match="needs the model's name"):
        ms.training()  # type: ignore[call-overload]
    with pytest.raises(ms.DeclarationError, match=r"_run_missing .*test_declarations.py:\d+\): a training makes a model"):
        ms.training(_run_missing)


def test_one_function_is_one_pipeline() -> None:
    """Two decorators on one function are refused."""
    with pytest.raises(ms.DeclarationError, match="the function is declared twice"):
        ms.inference(plain)


def test_a_name_that_never_comes_is_told_when_the_pipeline_is_used() -> None:
    """An annotation that cannot be resolved is refused with its name and the function's place."""

    @ms.inference
    def broken(a: Nowhere) -> int:  # type: ignore[name-defined]  # noqa: F821
        return 0

    with pytest.raises(ms.DeclarationError, match=r"broken .*an annotation cannot be resolved: name 'Nowhere' is not defined"):
        _signature(broken)


def test_retryable_takes_exception_classes() -> None:
    """What is no exception class is refused, and so is an empty list."""
    with pytest.raises(ms.DeclarationError, match="takes exception classes"):
        ms.retryable(int)  # type: ignore[arg-type]
    with pytest.raises(ms.DeclarationError, match="names the exceptions"):
        ms.retryable()
