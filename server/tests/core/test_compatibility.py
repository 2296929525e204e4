"""What a new release takes from the callers of the current one: every kind of break is found, and what is called compatible is."""

from __future__ import annotations

import dataclasses
import enum
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import pytest
from millstream_server.core.compatibility import breaks, breaks_of_deploying, check_compatible, previous_release
from millstream_server.core.errors import Invalid
from millstream_server.core.release import Manifest, PackageState, PipelineSpec, Release, begin_deploy, promote

Schema = dict[str, Any]

# --- types as authors write them --------------------------------------------------------------------------------------------


def schema_of(annotation: object) -> Schema:
    """The schema of a result, as the SDK makes it of a type hint."""
    (schema,), definitions = msgspec.json.schema_components([annotation], ref_template="#/$defs/{name}")
    return {**schema, **({"$defs": definitions} if definitions else {})}


def parameters_of(**annotations: object) -> Schema:
    """The schema of parameters: those given as (type, default) have a default."""
    types = [each[0] if isinstance(each, tuple) else each for each in annotations.values()]
    schemas, definitions = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    properties = dict(zip(annotations, schemas, strict=True))
    for name, each in annotations.items():
        if isinstance(each, tuple):
            properties[name] = {**properties[name], "default": each[1]}
    required = [name for name, each in annotations.items() if not isinstance(each, tuple)]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False, "$defs": definitions}


def manifest(version: str, *pipelines: PipelineSpec) -> Manifest:
    return Manifest(1, "scales", version, version, "3.11", "", "0.1.0", "2026-11-21", (), "", "", pipelines)


def weigh(kind: Any = "inference", returns: object = float, **parameters: object) -> PipelineSpec:
    return PipelineSpec("weigh", kind, "m", "weigh", parameters=parameters_of(**parameters), returns=schema_of(returns))


def told(old: PipelineSpec, *new: PipelineSpec) -> list[str]:
    """The sentences of what breaks."""
    return [each.sentence for each in breaks(manifest("1", old), manifest("2", *new))]


class Unit(enum.Enum):
    kg = "kg"
    g = "g"


class MoreUnits(enum.Enum):
    kg = "kg"
    g = "g"
    t = "t"


def row(**fields: object) -> type:
    """A struct called Row, its fields as (type, default) or a type alone."""
    made = [(name, *each) if isinstance(each, tuple) else (name, each) for name, each in fields.items()]
    return msgspec.defstruct("Row", made)


class Pair(NamedTuple):
    x: float
    y: float = 0.0


@dataclasses.dataclass
class Tree:
    weight: int
    children: list[Tree] = dataclasses.field(default_factory=list)


BREAKING = {
    "a parameter is gone": (weigh(x=float, unit=(str, "kg")), weigh(x=float), ["parameter $.unit is gone: string before"]),
    "a parameter needs a value": (weigh(x=float), weigh(x=float, unit=str), ["parameter $.unit is new and has no default: string now"]),
    "a default is gone": (
        weigh(unit=(str, "kg")),
        weigh(unit=str),
        ["parameter $.unit has no default any more: string now"],
    ),
    "fractions are refused": (weigh(x=float), weigh(x=int), ["parameter $.x takes less: number before, integer now"]),
    "null is refused": (weigh(x=float | None), weigh(x=float), ["parameter $.x takes less: number or null before, number now"]),
    "a limit is new": (
        weigh(x=int),
        weigh(x=Annotated[int, msgspec.Meta(ge=1)]),
        ["parameter $.x takes less: integer before, integer, at least 1 now"],
    ),
    "a value of an enum is refused": (
        weigh(unit=MoreUnits),
        weigh(unit=Unit),
        ['parameter $.unit takes less: one of "g", "kg", "t" before, one of "g", "kg" now'],
    ),
    "a member of a row needs a value": (
        weigh(rows=list[row(x=float)]),  # type: ignore[misc]
        weigh(rows=list[row(x=float, unit=str)]),  # type: ignore[misc]
        ["parameter $.rows[].unit is new and has no default: string now"],
    ),
    "a member of a row takes less": (
        weigh(rows=list[row(x=float)]),  # type: ignore[misc]
        weigh(rows=list[row(x=int)]),  # type: ignore[misc]
        ["parameter $.rows[].x takes less: number before, integer now"],
    ),
    "rows are plain numbers now": (
        weigh(rows=list[list[float]]),
        weigh(rows=list[float]),
        ["parameter $.rows[] takes less: array of number before, number now"],
    ),
    "text may have less": (
        weigh(text=str),
        weigh(text=Annotated[str, msgspec.Meta(pattern="^a", max_length=3)]),
        ["parameter $.text takes less: string before, string, length at most 3, matches ^a now"],
    ),
    "a date is wanted": (
        weigh(at=str),
        weigh(at=Annotated[__import__("datetime").datetime, msgspec.Meta(tz=True)]),
        ["parameter $.at takes less: string before, string, date-time now"],
    ),
    "the result is another type": (weigh(returns=float), weigh(returns=str), ["result $ may be another value: number before, string now"]),
    "the result may be null": (
        weigh(returns=float),
        weigh(returns=float | None),
        ["result $ may be another value: number before, number or null now"],
    ),
    "the result may be anything": (
        weigh(returns=float),
        weigh(returns=Any),
        ["result $ may be another value: number before, any JSON value now"],
    ),
    "a member of the result is gone": (
        weigh(returns=row(score=float, unit=str)),
        weigh(returns=row(score=float)),
        ["result $.unit is gone: string before"],
    ),
    "a member of the result that had a default is gone": (
        weigh(returns=row(score=float, unit=(str, "kg"))),
        weigh(returns=row(score=float)),
        ["result $.unit is gone: string before"],
    ),
    "a tuple of the result is shorter": (
        weigh(returns=Pair),
        weigh(returns=tuple[float]),
        ["result $[1] is gone: number before"],
    ),
    "the kind is another": (weigh(x=float), weigh("training", x=float), ["is of another kind: inference before, training now"]),
}


@pytest.mark.parametrize("case", BREAKING)
def test_what_breaks_callers_is_told_with_its_place(case: str) -> None:
    """Old and new are told in words, at the JSON path where they part."""
    old, new, expected = BREAKING[case]

    assert told(old, new) == [f"weigh: {each}" for each in expected]


COMPATIBLE = {
    "nothing changed": (weigh(x=float), weigh(x=float)),
    "a new parameter has a default": (weigh(x=float), weigh(x=float, unit=(str, "kg"))),
    "fractions are taken too": (weigh(x=int), weigh(x=float)),
    "null is taken too": (weigh(x=int), weigh(x=int | str | None)),
    "another default": (weigh(x=(int, 1)), weigh(x=(int, 2))),
    "one more value of an enum": (weigh(unit=Unit), weigh(unit=MoreUnits)),
    "any text where an enum was": (weigh(unit=Unit), weigh(unit=str)),
    "both words where true and false were": (weigh(x=bool), weigh(x=bool | str)),
    "a limit is gone": (weigh(x=Annotated[int, msgspec.Meta(gt=0)]), weigh(x=Annotated[int, msgspec.Meta(ge=1)])),
    "a member of a row has a default": (
        weigh(rows=list[row(x=float)]),  # type: ignore[misc]
        weigh(rows=list[row(x=float, unit=(str, ""))]),  # type: ignore[misc]
    ),
    "a row takes more": (weigh(one=row(x=float)), weigh(one=row(x=float | None))),
    "a training returns another model": (weigh("training", returns=float), weigh("training", returns=str)),
    "the result says less": (weigh(returns=float | None), weigh(returns=int)),
    "the result has one more member": (weigh(returns=row(score=float)), weigh(returns=row(score=float, unit=str))),
    "the result is one of fewer": (weigh(returns=Literal["a", "b"]), weigh(returns=Literal["a"])),
    "a tree is a tree": (weigh(tree=Tree, returns=Tree), weigh(tree=Tree | None, returns=Tree)),
}


@pytest.mark.parametrize("case", COMPATIBLE)
def test_what_callers_do_not_feel_breaks_nothing(case: str) -> None:
    """Whatever they sent is taken, whatever they could get they could get before."""
    assert told(*COMPATIBLE[case]) == []


def test_a_pipeline_that_is_gone_breaks_and_a_new_one_does_not() -> None:
    """A new one has no callers yet."""
    other = msgspec.structs.replace(weigh(), name="weigh_twice")

    assert told(weigh(), other) == ["weigh: is gone"]
    assert told(weigh(), weigh(), other) == []


def test_a_result_that_forbids_other_members_gets_none() -> None:
    """There its callers were promised that there are no others."""
    closed = msgspec.defstruct("Row", [("score", float)], forbid_unknown_fields=True)

    assert told(weigh(returns=closed), weigh(returns=row(score=float, unit=str))) == [
        "weigh: result $.unit is new, where the old type forbids other members: string now"
    ]


def test_a_keyword_that_is_not_understood_breaks_unless_all_is_equal() -> None:
    """It says so; an equal schema is compatible whatever it means."""
    old = {"type": "object", "properties": {"x": {"$ref": "#/$defs/X"}}, "required": ["x"], "additionalProperties": False}
    even = {"not": {"type": "string"}, "title": "X"}
    odd = {"not": {"type": "number"}, "title": "X"}
    one, same, other = (
        PipelineSpec("weigh", "inference", "m", "f", parameters={**old, "$defs": {"X": each}})
        for each in (even, {**even, "title": "as before"}, odd)
    )

    assert told(one, same) == []
    assert "$.x cannot be compared, for not is not understood here, and it differs" in told(one, other)[0]


# --- of a package -----------------------------------------------------------------------------------------------------------


def release(version: str, *pipelines: PipelineSpec) -> Release:
    return Release(manifest(version, *pipelines), f"scales-{version}.whl", "0" * 64, "DEPLOYING", deployed_ms=5)


def deployed(*releases: Release) -> PackageState:
    state = PackageState("scales")
    for each in releases:
        state = promote(begin_deploy(state, each))
    return state


def test_a_release_that_breaks_is_refused_with_every_place_and_both_ways_on() -> None:
    """The mend names the way without a break, and the option that allows it."""
    state = deployed(release("1", weigh(x=float, unit=(str, "kg"))))

    with pytest.raises(Invalid, match="scales==2 would break callers of scales==1 in 2 places") as caught:
        check_compatible(state, release("2", weigh(x=int)))

    assert caught.value.code == "breaks_callers"
    assert "\n  weigh: parameter $.x takes less" in caught.value.message
    assert "\n  weigh: parameter $.unit is gone" in caught.value.message
    assert "another name" in caught.value.mend
    assert "millstream deploy scales==2 --allow-breaking" in caught.value.mend


def test_the_way_back_is_checked_too_and_the_emergency_way_is_named() -> None:
    """Callers may use by now what the newer one added."""
    old = release("1", weigh(x=int))
    state = deployed(old, release("2", weigh(x=float)))

    with pytest.raises(Invalid) as caught:
        check_compatible(state, old)

    assert caught.value.mend.endswith("millstream deploy --rollback scales")


def test_nothing_breaks_where_nothing_is_current() -> None:
    """The first release, and the current one deployed again."""
    first = release("1", weigh(x=int))

    assert breaks_of_deploying(PackageState("scales"), first) == []
    assert breaks_of_deploying(deployed(first), first) == []


def test_a_kept_release_has_no_say() -> None:
    """It answers its own models as before; its break was told when the current one came."""
    state = deployed(release("1", weigh(x=float)), release("2", weigh(x=int)))

    check_compatible(state, release("3", weigh(x=int)))


def test_the_release_before_is_the_last_that_is_kept() -> None:
    """After a rollback that is the one that was left; where none is kept there is none."""
    first, second, third = (release(version, weigh()) for version in "123")

    assert previous_release(deployed(first)) is None
    before = previous_release(deployed(first, second, third))
    assert before == msgspec.structs.replace(second, status="KEPT", reason="previous")
    left = previous_release(deployed(first, second, first))
    assert left == before
