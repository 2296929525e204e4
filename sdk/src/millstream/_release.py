"""The code of one release inside this process: its pipelines by name, ready to run, and its models' savers and loaders.

Made once after the modules are imported, by the worker, by `millstream.manifest` and by `millstream.testing`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence

import msgspec

from millstream import _context
from millstream._answers import DEFAULT_MAX_RESULT_BYTES, Answers
from millstream._declare import PIPELINES, Pipeline, place_of
from millstream._failures import Fault, describe, raised, traceback_text
from millstream._models import check_model, is_within, model_code, save_model
from millstream._parameters import Parameters
from millstream._run import Request, Run
from millstream._shapes import Inference
from millstream.errors import Cancelled, DeclarationError
from millstream.wire import Outcome, Row, RunContext, WireError


class Training:
    """One training pipeline, ready to run."""

    def __init__(self, pipeline: Pipeline, modules: Sequence[str]) -> None:
        self.pipeline = pipeline
        self.run_s = 0.0
        self._signature = pipeline.signature
        self._parameters = Parameters(pipeline.name, self._signature)
        self._modules = modules

    def run(self, row: Row, context: RunContext, is_cancelled: Callable[[], bool]) -> Outcome:
        """Train, save the model's files into the context's folder, and answer with the metrics.

        Nothing that pipeline code does raises out of here.
        """
        import time

        begun = time.perf_counter()
        run = Run(context.run, row.tenant, context.attempt, is_cancelled=is_cancelled)
        try:
            with _context.alone((row.id,)):
                self._train(run, row, context.folder)
            return Outcome("ok", msgspec.json.encode({"metrics": run.metrics}))
        except Fault as fault:
            return Outcome(fault.status, error=fault.error)
        finally:
            self.run_s = time.perf_counter() - begun

    def _train(self, run: Run, row: Row, folder: str) -> None:
        arguments = self._parameters.arguments(row.params)
        if self._signature.request_parameter:
            arguments[self._signature.request_parameter] = Request(row.id, row.tenant, row.attempt)
        try:
            model = self.pipeline.function(run, **arguments)
        except BaseException as error:  # sys.exit in pipeline code is the run's failure, not the worker's end
            if isinstance(error, Cancelled) and run.cancelled:
                raise Fault("cancelled", WireError("cancelled", str(error))) from None
            raise Fault("failed", raised(error, retryable_types=self.pipeline.retryable_types)) from None
        check_model(model, self._signature.returns)
        save_model(model_code("saver", self.pipeline.model, self._modules), model, folder)


class Release:
    """Pipelines by name. `modules` are the release's; code that it merely imports from elsewhere is not its own."""

    def __init__(self, pipelines: Iterable[Pipeline], modules: Sequence[str], max_result_bytes: int = DEFAULT_MAX_RESULT_BYTES) -> None:
        self.modules = tuple(modules)
        self.inferences: dict[str, Inference] = {}
        self.trainings: dict[str, Training] = {}
        self._loaders: dict[str, Callable[..., object]] = {}
        for pipeline in pipelines:
            if pipeline.kind == "training":
                self.trainings[pipeline.name] = Training(pipeline, self.modules)
            else:
                answers = Answers(pipeline.signature.returns, max_result_bytes)
                self.inferences[pipeline.name] = Inference(pipeline, answers)
            if pipeline.model:
                model_code("saver", pipeline.model, self.modules)
                self._loaders[pipeline.model] = model_code("loader", pipeline.model, self.modules)

    def loader(self, model: str) -> Callable[..., object]:
        return self._loaders.get(model) or model_code("loader", model, self.modules)


class ImportFailed(Exception):
    """The release's modules cannot be imported or declare what cannot be run; `error` says why."""

    def __init__(self, error: WireError) -> None:
        super().__init__(error.message)
        self.error = error


def import_release(modules: Sequence[str], max_result_bytes: int = DEFAULT_MAX_RESULT_BYTES) -> tuple[Release, list[Pipeline]]:
    """Import modules and collect what they declare.

    Raises:
        ImportFailed: an import raised (import_failed, with the traceback), or a declaration cannot be used (bad_pipeline).
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except DeclarationError as error:
            raise ImportFailed(WireError("bad_pipeline", str(error), detail=traceback_text(error))) from None
        except BaseException as error:  # a module may do anything while it is imported, sys.exit included
            sentence = f"module {module} cannot be imported: {describe(error)}"
            raise ImportFailed(WireError("import_failed", sentence, detail=traceback_text(error))) from None
    try:
        pipelines = collect(modules)
        return Release(pipelines, modules, max_result_bytes), pipelines
    except DeclarationError as error:
        raise ImportFailed(WireError("bad_pipeline", str(error))) from None


def collect(modules: Sequence[str]) -> list[Pipeline]:
    """The pipelines declared in modules or below them, in the order of declaration.

    Raises:
        DeclarationError: two of them have one name.
    """
    found: dict[str, Pipeline] = {}
    for pipeline in PIPELINES:
        if not is_within(pipeline.module, modules):
            continue
        if pipeline.name in found:
            places = f"{place_of(found[pipeline.name].function)} and {place_of(pipeline.function)}"
            raise DeclarationError(f'two pipelines are named {pipeline.name}: {places}; rename one, or give it name="..."')
        found[pipeline.name] = pipeline
    return list(found.values())
