"""Joining callers: whoever is joined with whomever, each gets the answer that a call of its own would have had."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import millstream as ms
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream._answers import Answers
from millstream._declare import pipeline_of
from millstream._shapes import Inference
from millstream.testing import call_batch
from millstream.wire import Outcome, Row

calls: list[list[Any]] = []
"""The rows of every call of a pipeline of this module, as they were when the call began."""

RAISING, NAN, TEXT, ODD, EXIT, CHANGING = 90, 91, 92, 93, 94, 95


@ms.inference(rows_independent=True)
def tenfold(rows: list[int], add: int = 0) -> list[float]:
    """Row i gives 10 * i + add; some values make the call fail, or their own output wrong."""
    calls.append(list(rows))
    made: list[Any] = []
    for index, row in enumerate(rows):
        if row == RAISING:
            raise ArithmeticError("this row raises")
        if row == EXIT:
            raise SystemExit(3)
        if row == CHANGING:
            rows[index] = 0
            raise KeyError("raised after a change of the rows it was handed")
        made.append({NAN: math.nan, TEXT: "text", ODD: object()}.get(row, row * 10 + add))
    return made


@ms.inference
def differences(values: list[float]) -> list[float]:
    """Output i depends on its neighbour: joining two callers would mix them."""
    calls.append(list(values))
    return [after - before for before, after in pairwise(values)]


def _run(function: Any, bodies: list[bytes]) -> list[Outcome]:
    pipeline = pipeline_of(function)
    rows = [Row(f"r{index}", "acme", 1, body) for index, body in enumerate(bodies)]
    return Inference(pipeline, Answers(pipeline.signature.returns)).run(rows, None)


def _gist(outcome: Outcome) -> tuple[object, ...]:
    """All that a caller is told, without the traceback."""
    error = outcome.error
    return (outcome.status, outcome.body, error and (error.code, error.message, error.path, error.retryable))


row_values = st.one_of(st.integers(0, 9), st.sampled_from([RAISING, NAN, TEXT, ODD, EXIT, CHANGING]), st.sampled_from(["bad", None, 1.5]))
caller_params = st.fixed_dictionaries(
    {"rows": st.lists(row_values, max_size=4)}, optional={"add": st.sampled_from([0, 1, 2, "bad"]), "unknown": st.just(1)}
)
caller_bodies = st.one_of(
    caller_params.map(lambda params: json.dumps(params).encode()),
    st.sampled_from(
        [b"", b"[]", b"\xff", b"{", b'{"rows":[1', b']},{"rows":[2]}', b'{"rows":[1]},{"rows":[2]}', b'{"rows":[1]}\n{"rows":[2]}']
    ),
    st.just(b' {"rows" : [ 1 ,\n 2 ] , "add": 1}'),
)


@given(st.lists(caller_bodies, max_size=20))
def test_every_caller_gets_what_a_call_of_its_own_would_have_given(bodies: list[bytes]) -> None:
    """For any mix of good, bad, raising and unwritable rows the outcomes of a batch equal those of calls one by one."""
    together = _run(tenfold, bodies)

    assert [_gist(outcome) for outcome in together] == [_gist(_run(tenfold, [body])[0]) for body in bodies]


def _expected(params: dict[str, Any]) -> object:
    """What the pipeline's definition says about one caller: its result, or the code of the error."""
    rows, add = params["rows"], params.get("add", 0)
    if "unknown" in params or add == "bad" or any(type(row) is not int for row in rows):
        return "bad_parameters"
    if {RAISING, EXIT, CHANGING} & set(rows):
        return "pipeline_raised"
    if {NAN, ODD} & set(rows):
        return "not_json"
    return "wrong_result" if TEXT in rows else [10 * row + add for row in rows]


@given(st.lists(caller_params, max_size=20))
def test_outcomes_are_what_the_pipeline_s_definition_says(params: list[dict[str, Any]]) -> None:
    """Against an oracle that knows nothing of joining: each caller has its own result or its own error code, in order."""
    outcomes = _run(tenfold, [json.dumps(each).encode() for each in params])

    assert [o.error.code if o.error else msgspec.json.decode(o.body) for o in outcomes] == [_expected(each) for each in params]


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5), min_size=1, max_size=30))
def test_good_callers_share_one_call(lists: list[list[int]]) -> None:
    """Callers without a fault and with equal parameters are answered by a single call, each with its own part."""
    calls.clear()

    outcomes = _run(tenfold, [json.dumps({"rows": rows}).encode() for rows in lists])

    assert calls == [[row for rows in lists for row in rows]]
    assert [msgspec.json.decode(outcome.body) for outcome in outcomes] == [[10 * row for row in rows] for rows in lists]


def test_one_bad_caller_among_many_costs_a_logarithm_of_calls() -> None:
    """Of 256 callers one raises: it alone fails, after at most 2 * log2(256) + 1 calls."""
    calls.clear()
    lists = [[n % 10] for n in range(256)]
    lists[100] = [RAISING]

    outcomes = _run(tenfold, [json.dumps({"rows": rows}).encode() for rows in lists])

    assert [index for index, outcome in enumerate(outcomes) if outcome.status != "ok"] == [100]
    assert len(calls) <= 17


def test_only_callers_whose_other_parameters_are_equal_bytes_are_joined() -> None:
    """add=1 and add=2 are two calls; so are 1 and a spelling of it, because bytes are compared."""
    calls.clear()
    bodies = [b'{"rows":[1],"add":1}', b'{"add":2,"rows":[2]}', b'{"add":1,"rows":[3]}', b'{"rows":[4]}', b'{"rows":[5],"add":0}']

    outcomes = _run(tenfold, bodies)

    assert calls == [[1, 3], [2], [4], [5]]
    assert [outcome.body for outcome in outcomes] == [b"[11]", b"[22]", b"[31]", b"[40]", b"[50]"]


@given(st.lists(st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=4), min_size=1, max_size=10))
def test_rows_of_two_callers_never_meet_without_the_promise(lists: list[list[float]]) -> None:
    """A pipeline that differences its list is called once for each caller, with that caller's list alone."""
    calls.clear()

    outcomes = call_batch(differences, [{"values": values} for values in lists])

    assert calls == lists
    assert [outcome.result for outcome in outcomes] == [[b - a for a, b in pairwise(v)] for v in lists]


def test_no_rows_have_no_outputs_and_ask_no_pipeline() -> None:
    """An empty list is answered with an empty list, because many a predict raises for it; its parameters are still checked."""
    calls.clear()

    outcomes = _run(tenfold, [b'{"rows":[]}', b'{"rows":[],"add":"bad"}', b'{"rows":[1]}'])

    assert calls == [[1]]
    assert [(o.status, o.body) for o in outcomes] == [("ok", b"[]"), ("invalid", b""), ("ok", b"[10]")]


def _pipeline(answer: Any) -> Any:
    @ms.inference(rows_independent=True)
    def made(rows: list[int]) -> list[int]:
        return answer(rows)  # type: ignore[no-any-return]

    return made


@pytest.mark.parametrize("what", [lambda rows: rows[1:], lambda rows: [*rows, 1], lambda rows: []])
def test_an_answer_of_another_length_is_refused(what: Any) -> None:
    """Each caller of a pipeline that breaks its promise gets wrong_length."""
    outcomes = _run(_pipeline(what), [b'{"rows":[1]}', b'{"rows":[2,3]}'])

    assert [(o.status, o.error and o.error.code) for o in outcomes] == [("failed", "wrong_length")] * 2
    assert outcomes[1].error is not None
    assert "for 2 rows it returned" in outcomes[1].error.message


@pytest.mark.parametrize("what", [lambda rows: None, lambda rows: 3, lambda rows: {"a": 1}, lambda rows: "ab", lambda rows: iter(rows)])
def test_an_answer_that_is_no_list_is_a_wrong_result(what: Any) -> None:
    """What cannot be parted fails each caller with the code that a call of its own gets."""
    outcomes = _run(_pipeline(what), [b'{"rows":[1]}', b'{"rows":[2,3]}'])

    assert {o.status for o in outcomes} == {"failed"}
    assert {o.error.code for o in outcomes if o.error} <= {"wrong_result", "not_json"}


def test_an_answer_with_code_of_its_own_fails_its_callers_alone() -> None:
    """An answer whose `tolist` raises is not_json for each caller; nothing of it reaches the worker."""

    class Odd:
        shape = (2,)

        def __len__(self) -> int:
            return 2

        def __getitem__(self, part: slice) -> Odd:
            return self

        def tolist(self) -> list[int]:
            raise KeyError("no")

    outcomes = _run(_pipeline(lambda rows: Odd()), [b'{"rows":[1]}', b'{"rows":[2]}'])

    assert [o.error and o.error.code for o in outcomes] == ["not_json", "not_json"]
    assert [o.error and o.error.code for o in _run(_pipeline(lambda rows: Odd()), [b'{"rows":[1,2]}'])] == ["not_json"]


@pytest.mark.parametrize("broken", ["__len__", "__getitem__"])
def test_an_answer_that_cannot_be_parted_fails_its_callers_alone(broken: str) -> None:
    """What looks like an array and raises where its length or a part is asked for is a wrong result; the worker lives on."""

    def raising(*_: object) -> Any:
        raise TypeError("unhashable type: 'slice'")

    members = {"shape": (1,), "__len__": lambda self: 2, "__getitem__": lambda self, part: [1], "tolist": lambda self: 3, broken: raising}
    odd = type("Odd", (), members)

    outcomes = _run(_pipeline(lambda rows: odd()), [b'{"rows":[1]}', b'{"rows":[2]}'])

    codes = {o.error.code for o in outcomes if o.error}
    assert codes <= {"wrong_result", "wrong_length"}
    assert {o.status for o in outcomes} == {"failed"}
    assert [o.status for o in _run(_pipeline(lambda rows: odd()), [b'{"rows":[1,2]}'])] == ["failed"]


def test_a_cancelled_batch_stops_between_calls() -> None:
    """Once the batch is cancelled no further call is made, and the requests that did not run end as cancelled."""
    calls.clear()
    pipeline = pipeline_of(differences)
    rows = [Row(f"r{n}", "acme", 1, b'{"values":[1,2]}') for n in range(3)]

    outcomes = Inference(pipeline, Answers(pipeline.signature.returns)).run(rows, None, lambda: len(calls) == 1)

    assert [o.status for o in outcomes] == ["ok", "cancelled", "cancelled"]


def test_the_author_says_what_may_be_tried_again() -> None:
    """ms.Retryable, and exceptions named by @ms.retryable, mark the error of that caller alone as retryable."""

    @ms.retryable(ConnectionError)
    @ms.inference(rows_independent=True)
    def asks_elsewhere(rows: list[int]) -> list[int]:
        if 1 in rows:
            raise ms.Retryable("busy")
        if 2 in rows:
            raise ConnectionResetError("gone")
        if 3 in rows:
            raise ValueError("never")
        return rows

    outcomes = _run(asks_elsewhere, [json.dumps({"rows": [n]}).encode() for n in range(5)])

    assert [o.error.retryable if o.error else None for o in outcomes] == [None, True, True, False, None]
