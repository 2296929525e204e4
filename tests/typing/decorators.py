"""What the decorators infer, as mypy sees it; checked by `test_what_decorators_infer.py`, never run.

A line with `type: ignore[code]` must be an error of that code: mypy is told to report ignores that are not needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import millstream as ms
from millstream import testing


class Forest:
    trees: int


@ms.training(model="forest")
def train(run: ms.Run, trees: int, *, depth: int = 3) -> Forest:
    assert_type(run.id, str)
    assert_type(run.cancelled, bool)
    assert_type(run.metrics, dict[str, float])
    assert_type(run.artifact("forest", 3), Path)
    assert_type(run.artifact("forest", "champion"), Path)
    with run.step("fit") as nothing:
        assert_type(nothing, None)
    return Forest()


@ms.inference
def bare(a: int, b: int = 1) -> int:
    return a + b


@ms.inference(model="forest", rows_independent=True, timeout_s=2)
def detect(model: Forest, rows: list[float], share: float = 0.5) -> list[bool]:
    return [row > model.trees for row in rows]


@ms.retryable(ConnectionError, TimeoutError)
@ms.inference(name="other")
def asks(key: str, request: ms.Request | None = None) -> str:
    assert request is None or assert_type(request.attempt, int)
    return key


@ms.saver("forest")
def save(model: Forest, folder: Path) -> None: ...


@ms.loader("forest")
def load(folder: Path) -> Forest:
    return Forest()


# A decorated function keeps its types: results, names of parameters, defaults.
assert_type(train(testing.run(), 3, depth=2), Forest)
assert_type(train(run=testing.run(), trees=3), Forest)
assert_type(bare(1), int)
assert_type(bare(a=1, b=2), int)
assert_type(detect(Forest(), [1.0]), list[bool])
assert_type(asks("a"), str)
assert_type(load(Path()), Forest)

bare("1")  # type: ignore[arg-type]
bare(1, c=2)  # type: ignore[call-arg]
train(3, 3)  # type: ignore[arg-type]
detect(Forest(), ["x"])  # type: ignore[list-item]


@ms.training(model="forest")  # type: ignore[type-var]
def forgot_its_run(trees: int) -> Forest:
    return Forest()


@ms.saver("forest")  # type: ignore[type-var]
def forgot_its_folder(model: Forest) -> None: ...


ms.training()  # type: ignore[call-overload]
ms.inference(modle="forest")  # type: ignore[call-overload]
ms.retryable("ConnectionError")  # type: ignore[arg-type]
ms.testing_is_imported_by_name  # type: ignore[attr-defined]  # noqa: B018

# What the testing functions give.
assert_type(testing.run().metrics, dict[str, float])
assert_type(testing.train(train, {"trees": 1}).metrics, dict[str, float])
assert_type(testing.call_batch(bare, [{"a": 1}, b'{"a":2}']), list[testing.Outcome])
