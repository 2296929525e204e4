"""What a new release takes from the callers of the current one: every kind of break is found, and what is called compatible is."""

from __future__ import annotations

import dataclasses
import enum
from typing import Annotated, Any, Literal, NamedTuple

import jsonschema
import msgspec
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from millstream_server.core.compatibility import breaks, breaks_of_deploying, check_compatible, previous_release
from millstream_server.core.errors import Invalid
from millstream_server.core.release import Manifest, PackageState, PipelineSpec, Release, begin_deploy, promote
from millstream_server.core.schema_fit import Fit

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


def test_trees_of_trees_end() -> None:
    """Types that mention themselves and each other are compared to the end, and the one leaf that differs is found once."""

    def forest(leaf: str) -> Schema:
        many = {name: {"$ref": f"#/$defs/{name}"} for name in "ABCDEF"}
        node = {"type": "object", "properties": {"leaf": {"type": leaf}, **many}, "required": ["leaf"]}
        return {"$ref": "#/$defs/A", "$defs": dict.fromkeys("ABCDEF", node)}

    assert Fit(forest("integer"), forest("number")).fits(forest("integer"), forest("number"))
    assert [each.path for each in Fit(forest("number"), forest("integer")).misfits(forest("number"), forest("integer"))] == ["$.leaf"]


def test_a_reference_to_itself_ends() -> None:
    """No value fits it, so it fits anywhere; and nothing fits it."""
    itself = {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}

    assert Fit(itself, {"type": "null"}).fits(itself, {"type": "null"})
    assert not Fit({"type": "null"}, itself).fits({"type": "null"}, itself)


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


# --- what is called compatible is --------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "title", "type"])
NUMBERS = st.integers(-3, 3)
DEFINITIONS = ("A", "B")
WORDS = st.sampled_from(["", "a", "b", "aa", "ab", "kg", "long word"])
LEAF = {"null": None, "boolean": False, "integer": 1, "number": 0.5, "string": "a"}


@st.composite
def leaves(draw: st.DrawFn) -> Schema:
    """Numbers, strings and single values with their limits."""
    kind = draw(st.sampled_from(["integer", "number", "string", "enum", "null", "boolean", "any"]))
    limits: Schema = {}
    if kind in ("integer", "number"):
        for keyword, values in (
            ("minimum", NUMBERS),
            ("exclusiveMinimum", NUMBERS),
            ("maximum", NUMBERS),
            ("exclusiveMaximum", NUMBERS),
            ("multipleOf", st.sampled_from([1, 2, 0.5])),
        ):
            if draw(st.integers(0, 3)) == 0:
                limits[keyword] = draw(values)
    elif kind == "string":
        lengths = st.integers(0, 3)
        for keyword, values in (("minLength", lengths), ("maxLength", lengths), ("pattern", st.sampled_from(["^a", "b$"]))):
            if draw(st.integers(0, 3)) == 0:
                limits[keyword] = draw(values)  # type: ignore[arg-type]
    elif kind == "enum":
        return {"enum": draw(st.lists(st.one_of(WORDS, NUMBERS, st.none(), st.booleans()), min_size=1, max_size=3))}
    elif kind == "any":
        return {"description": "any JSON value"}
    return {"type": kind, **limits}


@st.composite
def containers(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    """Structs, dicts, lists, tuples, unions and references."""
    kind = draw(st.sampled_from(["object", "dict", "array", "tuple", "anyOf", "ref"]))
    match kind:
        case "object":
            properties = draw(st.dictionaries(NAMES, inner, max_size=3))
            required = [name for name in properties if draw(st.booleans())]
            closed = {"additionalProperties": False} if draw(st.booleans()) else {}
            return {"type": "object", "properties": properties, "required": required, **closed}
        case "dict":
            names = {"propertyNames": {"maxLength": draw(st.integers(0, 2))}} if draw(st.booleans()) else {}
            few = {"maxProperties": draw(st.integers(0, 2))} if draw(st.booleans()) else {}
            return {"type": "object", "additionalProperties": draw(inner), **names, **few}
        case "array":
            lengths = {"minItems": draw(st.integers(0, 2))} if draw(st.booleans()) else {}
            most = {"maxItems": draw(st.integers(0, 2))} if draw(st.booleans()) else {}
            alone = {"uniqueItems": True} if draw(st.integers(0, 3)) == 0 else {}
            return {"type": "array", "items": draw(inner), **lengths, **most, **alone}
        case "tuple":
            items = draw(st.lists(inner, min_size=1, max_size=2))
            ends = {"maxItems": len(items), "items": False} if draw(st.booleans()) else {}
            return {"type": "array", "prefixItems": items, "minItems": draw(st.integers(0, len(items))), **ends}
        case "anyOf":
            return {"anyOf": draw(st.lists(inner, min_size=1, max_size=3))}
    return {"$ref": f"#/$defs/{draw(st.sampled_from(DEFINITIONS))}"}


NODES = st.recursive(leaves(), containers, max_leaves=6)


@st.composite
def roots(draw: st.DrawFn) -> Schema:
    return {**draw(NODES), "$defs": {name: draw(st.one_of(leaves(), containers(NODES))) for name in DEFINITIONS}}


@st.composite
def changed(draw: st.DrawFn, schema: Any) -> Any:
    """A schema with a keyword dropped, a node replaced, a member added, here and there: what a next version looks like."""
    if not isinstance(schema, dict):
        return schema
    turn = draw(st.integers(0, 9))
    if turn == 0:
        return draw(NODES)
    if turn == 1:
        return {"anyOf": [schema, draw(leaves())]}
    made: Schema = {}
    for keyword, value in schema.items():
        if keyword in ("properties", "$defs"):
            made[keyword] = {name: draw(changed(each)) for name, each in value.items()}
            if keyword == "properties" and draw(st.integers(0, 3)) == 0:
                made[keyword][draw(NAMES)] = draw(leaves())
        elif keyword in ("anyOf", "prefixItems"):
            made[keyword] = [draw(changed(each)) for each in value]
        elif keyword in ("items", "additionalProperties"):
            made[keyword] = draw(changed(value))
        elif keyword in ("type", "$ref") or draw(st.integers(0, 5)):
            made[keyword] = "number" if (keyword, value) == ("type", "integer") and draw(st.booleans()) else value
    return made


def next_root(draw: st.DrawFn, root: Schema) -> Schema:
    made = draw(changed({keyword: value for keyword, value in root.items() if keyword != "$defs"}))
    return {**made, "$defs": {name: draw(changed(each)) for name, each in root["$defs"].items()}}


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Schema, Schema]:
    """Two versions of a schema, either of which may be the older one."""
    old = draw(roots())
    new = next_root(draw, old)
    return (old, new) if draw(st.booleans()) else (new, old)


@st.composite
def instances(draw: st.DrawFn, schema: Any, root: Schema, depth: int = 0) -> Any:
    """A value that a schema is likely to allow: the members and items that it declares."""
    if schema is True or not schema or depth > 5:
        return draw(st.sampled_from([*LEAF.values(), [], {}]))
    match schema:
        case {"$ref": ref}:
            return draw(instances(root["$defs"][ref.removeprefix("#/$defs/")], root, depth + 1))
        case {"anyOf": members}:
            return draw(instances(draw(st.sampled_from(members)), root, depth + 1))
        case {"enum": values}:
            return draw(st.sampled_from(values))
        case {"type": "object"}:
            members = schema.get("properties", {})
            wanted = [name for name in members if name in schema.get("required", ()) or draw(st.booleans())]
            made = {name: draw(instances(members[name], root, depth + 1)) for name in wanted}
            rest = schema.get("additionalProperties")
            if isinstance(rest, dict):
                made |= {name: draw(instances(rest, root, depth + 1)) for name in draw(st.lists(NAMES, max_size=2)) if name not in made}
            return made
        case {"type": "array"}:
            items = schema.get("prefixItems", [])
            if items:
                return [
                    draw(instances(each, root, depth + 1)) for each in items[: draw(st.integers(schema.get("minItems", 0), len(items)))]
                ]
            return [draw(instances(schema["items"], root, depth + 1)) for _ in range(draw(st.integers(0, 3)))]
        case {"type": "integer"}:
            return draw(NUMBERS)
        case {"type": "number"}:
            return draw(st.sampled_from([-3, -2, -1.5, -1, 0, 0.25, 0.5, 1, 1.5, 2, 2.75, 3]))
        case {"type": "string"}:
            return draw(WORDS)
        case {"type": kind}:
            return draw(st.booleans()) if kind == "boolean" else None
    return draw(st.sampled_from([*LEAF.values(), [], {}]))


def declared(schema: Any) -> Any:
    """The schema that allows no member and no item beyond those that are declared: what callers are counted on to send."""
    if isinstance(schema, list):
        return [declared(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        keyword: {name: declared(each) for name, each in value.items()}
        if keyword in ("properties", "$defs")
        else value
        if keyword == "enum"
        else declared(value)
        for keyword, value in schema.items()
    }
    if made.get("type") == "object" and "properties" in made:
        made.setdefault("additionalProperties", False)
    if made.get("type") == "array" and "prefixItems" in made:
        made.setdefault("items", False)
    return made


def allows(schema: Schema, value: object) -> bool:
    try:
        return bool(jsonschema.Draft202012Validator(schema).is_valid(value))
    except RecursionError:  # a union that names itself as a member, which no type hint makes: the other validator does not end
        reject()


@pytest.mark.parametrize("answers", [False, True])
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_what_is_called_fitting_allows_every_value_of_the_first(answers: bool, data: st.DataObject) -> None:
    """Whatever two schemas are drawn: a value that the first allows, the second allows too, says another validator."""
    first, second = data.draw(pairs())
    fit = Fit(first, second, answers=answers)
    misfits = fit.misfits(first, second)

    assert bool(misfits) is not fit.fits(first, second)
    for _ in range(8):
        value = data.draw(instances(first, first))
        if not misfits and allows(declared(first), value):
            assert allows(second, value)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(root=roots(), more=leaves())
def test_a_schema_fits_itself_and_one_that_allows_more(root: Schema, more: Schema) -> None:
    """Also where it mentions itself."""
    wider = {"anyOf": [{keyword: value for keyword, value in root.items() if keyword != "$defs"}, more], "$defs": root["$defs"]}

    assert Fit(root, root).fits(root, root)
    assert Fit(root, wider).fits(root, wider)
