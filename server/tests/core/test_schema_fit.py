"""Schemas that are called fitting allow all that they must, says another validator, whatever is drawn; recursive ones end."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from millstream_server.core.schema_fit import Fit

Schema = dict[str, Any]

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


@pytest.mark.parametrize("answers", [False, True])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
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


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(root=roots(), more=leaves())
def test_a_schema_fits_itself_and_one_that_allows_more(root: Schema, more: Schema) -> None:
    """Also where it mentions itself."""
    wider = {"anyOf": [{keyword: value for keyword, value in root.items() if keyword != "$defs"}, more], "$defs": root["$defs"]}

    assert Fit(root, root).fits(root, root)
    assert Fit(root, wider).fits(root, wider)
