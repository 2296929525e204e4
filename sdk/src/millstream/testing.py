"""Call pipelines as the platform would, without the platform; for authors' tests.

    from millstream.testing import Refused, call, call_batch, train

    trained = train(pipelines.train, {"source": "data.csv"})
    assert call(pipelines.detect, {"readings": [...]}, model=trained.model) == [...]

Parameters go through JSON, the strict decoder, joining and the checks of answers: the same code that runs in a worker. A decorated
function is still a plain function, so a test may also call it directly.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from millstream import _context
from millstream._answers import DEFAULT_MAX_RESULT_BYTES, Answers, find_nan
from millstream._declare import Pipeline, pipeline_of
from millstream._failures import Fault
from millstream._models import load_model, model_code
from millstream._plain import to_builtin
from millstream._release import Training
from millstream._run import Run
from millstream._shapes import Inference
from millstream.errors import CallError
from millstream.wire import Outcome as WireOutcome
from millstream.wire import Row, RunContext, WireError

__all__ = ["Outcome", "Refused", "Trained", "call", "call_batch", "run", "train"]

Params = Mapping[str, object] | bytes


class Refused(Exception):
    """A request that has no result.

    Attributes:
        code: the stable error code, such as `bad_parameters`, `pipeline_raised` or `not_json`.
        message: the sentence that the caller reads.
        path: the JSON path, into the parameters (`bad_parameters`) or into the result, or empty.
        detail: the traceback of pipeline code, or empty.
    """

    def __init__(self, error: WireError) -> None:
        super().__init__(f"{error.code}: {error.message}" + (f" (at {error.path})" if error.path else ""))
        self.code = error.code
        self.message = error.message
        self.path = error.path
        self.detail = error.detail


class Outcome(msgspec.Struct, frozen=True):
    """What became of one request of `call_batch`: `result` where `status` is ok, else `refused`."""

    status: str
    result: object = None
    refused: Refused | None = None


class Trained(msgspec.Struct, frozen=True):
    """What a training made.

    `model` went through the saver and the loader; `files` are the saved files by name; `steps` are names with their status, in the
    order in which they ended; `logs` are the lines of `run.log` and `ms.log`.
    """

    model: Any
    metrics: dict[str, float]
    steps: list[tuple[str, str]]
    logs: list[str]
    files: dict[str, bytes]


def call(
    function: Callable[..., object],
    params: Params | None = None,
    *,
    model: object = None,
    tenant: str = "default",
    id: str = "test-1",
    attempt: int = 1,
) -> Any:
    """Answer one request.

    Args:
        function: a function with `@ms.inference`.
        params: a dict as the caller would send it, or the JSON bytes themselves.
        model: the loaded model, where the pipeline has one.
        tenant: whose request it is.
        id: the request's id.
        attempt: counts from 1.

    Returns:
        The result as a caller reads it: plain objects decoded from the JSON.

    Raises:
        Refused: there is no result; has the code, message and path that the caller would get.
    """
    outcome = _batch(function, [Row(id, tenant, attempt, _to_json(params))], model)[0]
    if outcome.refused is not None:
        raise outcome.refused
    return outcome.result


def call_batch(
    function: Callable[..., object], params: Sequence[Params], *, model: object = None, tenant: str = "default"
) -> list[Outcome]:
    """Answer several requests that reached the platform together; callers are joined where `rows_independent` allows it.

    Returns:
        Outcomes in the order of `params`.
    """
    return _batch(function, [Row(f"test-{n}", tenant, 1, _to_json(p)) for n, p in enumerate(params, 1)], model)


def train(
    function: Callable[..., object],
    params: Params | None = None,
    *,
    tenant: str = "default",
    folder: Path | None = None,
    artifacts: Mapping[str, Path] | None = None,
    id: str = "test-run",
    attempt: int = 1,
) -> Trained:
    """Run a training, save its model, and load it again.

    Args:
        function: a function with `@ms.training`.
        params: a dict as the caller would send it, or the JSON bytes themselves.
        tenant: whose model it becomes.
        folder: an empty folder for the model's files; a temporary one where left out.
        artifacts: folders that `run.artifact` answers with, by model name.
        id: the run's id.
        attempt: counts from 1.

    Raises:
        Refused: the training, the saver or the loader failed.
    """
    pipeline = _of_kind(function, "training")
    collector = _Collector(artifacts or {})
    with _home(folder) as home, _installed(collector):
        row = Row(id, tenant, attempt, _to_json(params))
        body = _decoded(Training(pipeline, _near(pipeline)).run(row, RunContext(id, attempt, str(home)), lambda: False))
        try:
            model = load_model(model_code("loader", pipeline.model, _near(pipeline)), str(home))
        except Fault as fault:
            raise Refused(fault.error) from None
        files = {file.name: file.read_bytes() for file in sorted(home.iterdir())}
    return Trained(model, body["metrics"], collector.steps, collector.logs, files)


def run(id: str = "test-run", tenant: str = "default", attempt: int = 1, *, cancelled: bool = False) -> Run:
    """A `Run` to hand to a training that is called directly; its `metrics` can be read afterwards."""
    return Run(id, tenant, attempt, is_cancelled=lambda: cancelled)


def _batch(function: Callable[..., object], rows: list[Row], model: object) -> list[Outcome]:
    pipeline = _of_kind(function, "inference")
    answers = Answers(pipeline.signature.returns, DEFAULT_MAX_RESULT_BYTES)
    made = []
    for outcome in Inference(pipeline, answers).run(rows, model):
        try:
            made.append(Outcome(outcome.status, _decoded(outcome)))
        except Refused as refused:
            made.append(Outcome(outcome.status, None, refused))
    return made


def _decoded(outcome: WireOutcome) -> Any:
    if outcome.error is not None:
        raise Refused(outcome.error)
    return msgspec.json.decode(outcome.body)


def _of_kind(function: Callable[..., object], kind: str) -> Pipeline:
    pipeline = pipeline_of(function)
    if pipeline.kind != kind:
        use = "train" if pipeline.kind == "training" else "call or call_batch"
        raise TypeError(f"{pipeline.name} is of kind {pipeline.kind}; use millstream.testing.{use}")
    return pipeline


def _near(pipeline: Pipeline) -> tuple[str, ...]:
    """Where the pipeline's savers and loaders are looked for first: its own package."""
    return (pipeline.module.partition(".")[0],)


def _to_json(params: Params | None) -> bytes:
    if isinstance(params, bytes):
        return params
    value = dict(params or {})
    path = find_nan(value)
    if path is not None:
        raise ValueError(f"params hold NaN or infinity at {path}, which no caller can send as JSON")
    return msgspec.json.encode(value, enc_hook=to_builtin)


class _Collector:
    """Takes what a training tells; lines also go to the standard `logging`, where pytest shows them."""

    def __init__(self, artifacts: Mapping[str, Path]) -> None:
        self.steps: list[tuple[str, str]] = []
        self.logs: list[str] = []
        self._artifacts = artifacts

    def log(self, level: str, message: str, requests: Sequence[str], logger: str) -> None:
        self.logs.append(message)
        number = logging.getLevelName(level.upper())
        logging.getLogger(logger or "millstream").log(number if isinstance(number, int) else logging.INFO, "%s", message)

    def metric(self, run: str, name: str, value: float) -> None:
        """Nothing: the run keeps its metrics itself."""

    def step(self, run: str, name: str, status: str, seconds: float) -> None:
        if status != "running":
            self.steps.append((name, status))

    def call(self, run: str, method: str, params: dict[str, str]) -> str:
        folder = self._artifacts.get(params["model"])
        if folder is None:
            raise CallError("no_model", f"the test gave no artifact of model {params['model']}; pass artifacts={{...}} to train")
        return str(folder)


@contextmanager
def _installed(collector: _Collector) -> Iterator[None]:
    before = _context.install(collector)
    try:
        yield
    finally:
        _context.install(before)


@contextmanager
def _home(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="millstream-test-") as made:
        yield Path(made)
