"""The gate of a training: what authors may write, what the manifest then says, and what is refused with a sentence."""

from __future__ import annotations

import millstream as ms
import msgspec
import pytest
from millstream._declare import pipeline_of
from millstream._manifest import describe_pipeline

CONDITIONS = [
    ("f1 >= 0.8", ("f1", ">=", 0.8, False)),
    ("f1>=champion", ("f1", ">=", 0.0, True)),
    ("f1 >= champion - 0.01", ("f1", ">=", -0.01, True)),
    ("loss < champion + 1e-3", ("loss", "<", 0.001, True)),
    ("  mean absolute error <= .5 ", ("mean absolute error", "<=", 0.5, False)),
    ("drift > -2", ("drift", ">", -2.0, False)),
    ("test/f1 >= +1", ("test/f1", ">=", 1.0, False)),
]


@pytest.mark.parametrize(("text", "bound"), CONDITIONS)
def test_a_condition_is_carried_in_the_manifest_as_fields(text: str, bound: tuple[object, ...]) -> None:
    """Metric, relation, number, and whether the number is counted from the champion's."""

    @ms.training(model="scale", gate=text)
    def train(run: ms.Run) -> float:
        return 1.0

    written = msgspec.to_builtins(describe_pipeline(pipeline_of(train)))["gate"]

    assert [tuple(each.values()) for each in written] == [bound]


def test_several_conditions_are_kept_in_their_order() -> None:
    """All of them must hold; a training without one has none."""

    @ms.training(model="scale", gate=["rows >= 100", "f1 >= champion"])
    def gated(run: ms.Run) -> float:
        return 1.0

    @ms.training(model="scale")
    def free(run: ms.Run) -> float:
        return 1.0

    assert [bound.metric for bound in pipeline_of(gated).gate] == ["rows", "f1"]
    assert pipeline_of(free).gate == ()


@pytest.mark.parametrize(
    "gate",
    ["f1", "f1 = 0.8", "f1 == 0.8", ">= 0.8", "f1 >= good", "f1 >= champion * 2", "f1 >= nan", "f1 >= 0.8 and loss < 1", ["f1 > 1", 3], 7],
)
def test_what_is_no_condition_is_refused_where_it_is_written(gate: object) -> None:
    """The message names the function and shows what can be written."""
    with pytest.raises(ms.DeclarationError, match=r"train .*gate") as refused:

        @ms.training(model="scale", gate=gate)  # type: ignore[call-overload]
        def train(run: ms.Run) -> float:
            return 1.0

    assert ">=" in str(refused.value)
