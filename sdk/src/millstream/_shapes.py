"""Run one batch of requests through an inference: who is called alone, who is joined, and whose fault a failure is.

    row, list, columns      one call a request, in order
    rows_independent        callers whose other parameters are byte-equal are joined in one call; the answer must have one output
                            for each row, and each caller gets its part back

Invariant: the outcome of a request is the one that a call of its own would have had. Where a joined call raises, or its answer
cannot be parted, the callers are halved and each half is called again, down to the caller whose fault it is. Rows of two
callers never meet in a call without the author's promise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from millstream import _context
from millstream._answers import Answers
from millstream._declare import Pipeline
from millstream._failures import Fault, describe, raised
from millstream._parameters import Parameters
from millstream._plain import is_sequence, part_of
from millstream._run import Request
from millstream.wire import Outcome, Row, WireError

_Caller = tuple[int, Any]
"""A request's place in the batch, and its rows: a list, or the columns of a frame."""

_NO_ROWS = object()
_CANCELLED = Outcome("cancelled", error=WireError("cancelled", "the batch was cancelled before this request ran"))


class Inference:
    """One inference pipeline, ready to run batches. Used by one thread.

    Attributes:
        run_s: seconds that pipeline code ran since `run` was last called.
    """

    def __init__(self, pipeline: Pipeline, answers: Answers) -> None:
        self.pipeline = pipeline
        self.run_s = 0.0
        self._signature = pipeline.signature
        self._parameters = Parameters(pipeline.name, self._signature)
        self._answers = answers
        self._function = pipeline.function
        self._arguments = self._parameters.column_arguments if self._signature.shape == "columns" else self._parameters.arguments

    def run(self, rows: Sequence[Row], model: object, is_cancelled: Callable[[], bool] = lambda: False) -> list[Outcome]:
        """Answer every request of a batch.

        Args:
            rows: 1 or more requests, of any tenants, all for this pipeline and model version.
            model: the loaded model; not looked at where the pipeline declares none.
            is_cancelled: asked between calls.

        Returns:
            Outcomes in the order of `rows`. Nothing that pipeline code does raises out of here.
        """
        self.run_s = 0.0
        leading = (model,) if self.pipeline.model else ()
        if self.pipeline.rows_independent:
            return _Joining(self, rows, leading, is_cancelled).run()
        return [_CANCELLED if is_cancelled() else self._one(row, leading) for row in rows]

    def call(self, ids: tuple[str, ...], leading: tuple[object, ...], arguments: dict[str, Any]) -> Any:
        """Call the function with its lines stamped with `ids`, and add to `run_s`.

        Raises:
            Fault: pipeline_raised; also for SystemExit and whatever else is no Exception.
        """
        _context.enter(ids)
        begun = time.perf_counter()
        try:
            return self._function(*leading, **arguments)
        except BaseException as error:  # sys.exit in pipeline code is that request's failure, not the worker's end
            raise Fault("failed", raised(error, retryable_types=self.pipeline.retryable_types)) from None
        finally:
            self.run_s += time.perf_counter() - begun
            _context.enter(())

    def _one(self, row: Row, leading: tuple[object, ...]) -> Outcome:
        try:
            arguments = self._arguments(row.params)
            if self._signature.request_parameter:
                arguments[self._signature.request_parameter] = Request(row.id, row.tenant, row.attempt)
            return Outcome("ok", self._answers.encode(self.call((row.id,), leading, arguments)))
        except Fault as fault:
            return Outcome(fault.status, error=fault.error)


class _Joining:
    """One batch of a pipeline that promises `rows_independent`."""

    def __init__(self, inference: Inference, rows: Sequence[Row], leading: tuple[object, ...], is_cancelled: Callable[[], bool]) -> None:
        self._inference = inference
        self._parameters = inference._parameters
        self._split = self._parameters.split_columns if inference._signature.shape == "columns" else self._parameters.split
        self._rows = rows
        self._leading = leading
        self._is_cancelled = is_cancelled
        self._outcomes: list[Outcome] = [_CANCELLED] * len(rows)

    def run(self) -> list[Outcome]:
        groups: dict[tuple[tuple[bytes, ...], object], list[_Caller]] = {}
        for index, split in enumerate(self._split_all()):
            if isinstance(split, Fault):
                self._fail(index, split)
                continue
            mine, others = split
            alike = self._parameters.alike(mine) if len(mine) else _NO_ROWS
            groups.setdefault((others, alike), []).append((index, mine))
        for (_, alike), callers in groups.items():
            if alike is _NO_ROWS:
                self._answer_empty(callers)
            else:
                self._settle(callers)
        return self._outcomes

    def _split_all(self) -> Iterator[tuple[Any, tuple[bytes, ...]] | Fault]:
        for row in self._rows:
            try:
                yield self._split(row.params)
            except Fault as fault:
                yield fault

    def _settle(self, callers: list[_Caller]) -> None:
        """Answer callers whose rows may be joined, in one call if that works, else by halves."""
        if self._is_cancelled():
            return
        fault: Fault | None = None
        try:
            answer = self._call(callers)
        except Fault as caught:
            fault = caught
        if fault is None:
            self._part(callers, answer)
        elif len(callers) == 1:
            self._fail(callers[0][0], fault)
        else:
            middle = len(callers) // 2
            for half in (callers[:middle], callers[middle:]):
                # Decoded anew: the call that failed may have changed the rows it was handed.
                self._settle([(index, self._split(self._rows[index].params)[0]) for index, _ in half])

    def _part(self, callers: list[_Caller], answer: Any) -> None:
        """Give each caller its part of the answer, checked and encoded on its own."""
        answers = self._inference._answers
        lengths = [len(rows) for _, rows in callers]
        bodies = answers.encode_parts(answer, lengths)
        if bodies is not None:
            for (index, _), body in zip(callers, bodies, strict=True):
                self._outcomes[index] = Outcome("ok", body)
            return
        start = 0
        for (index, _), length in zip(callers, lengths, strict=True):
            try:
                self._outcomes[index] = Outcome("ok", answers.encode(_part_of(answer, start, start + length)))
            except Fault as fault:
                self._fail(index, fault)
            start += length

    def _call(self, callers: list[_Caller]) -> Any:
        """Call once with everybody's rows.

        Raises:
            Fault: the call cannot be made, raised, or answered with anything but one output a row.
        """
        arguments = self._parameters.others(self._rows[callers[0][0]].params)
        count = sum([len(rows) for _, rows in callers])
        arguments[self._parameters.rows_name] = self._parameters.join([rows for _, rows in callers])
        ids = tuple([self._rows[index].id for index, _ in callers])
        answer = self._inference.call(ids, self._leading, arguments)
        if not is_sequence(answer):
            # Not a list at all: a single caller learns from the annotation check what it should have been.
            if len(callers) == 1:
                self._inference._answers.encode(answer)
            raise _wrong_length(f"returned a value of type {type(answer).__name__}", count)
        found = _length_of(answer)
        if found != count:
            raise _wrong_length(f"returned {found} outputs", count)
        return answer

    def _answer_empty(self, callers: list[_Caller]) -> None:
        """No rows have no outputs; many a `predict` raises for them, so it is not asked."""
        for index, _ in callers:
            try:
                self._parameters.others(self._rows[index].params)
                self._outcomes[index] = Outcome("ok", b"[]")
            except Fault as fault:
                self._fail(index, fault)

    def _fail(self, index: int, fault: Fault) -> None:
        self._outcomes[index] = Outcome(fault.status, error=fault.error)


def _part_of(answer: Any, start: int, stop: int) -> Any:
    try:
        return part_of(answer, start, stop)
    except Exception as error:
        # An author's own class, or a library's that only looks like a sequence.
        raise _not_parted(answer, error) from None


def _length_of(answer: Any) -> int:
    try:
        return len(answer)
    except Exception as error:
        # As above.
        raise _not_parted(answer, error) from None


def _not_parted(answer: Any, error: Exception) -> Fault:
    sentence = f"the pipeline returned a value of type {type(answer).__name__}, which cannot be parted by rows: {describe(error)}"
    return Fault("failed", WireError("wrong_result", sentence, path="$"))


def _wrong_length(what: str, count: int) -> Fault:
    sentence = f"the pipeline promises rows_independent, but for {count} rows it {what}; it must return one output for each row, in order"
    return Fault("failed", WireError("wrong_length", sentence))
