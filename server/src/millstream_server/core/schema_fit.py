"""Whether every value that one JSON Schema allows is allowed by another, and where not.

Called by `core.compatibility`. It never says "fits" of schemas where a value of the one is none of the other; it may refuse some where
each value is: a range that several alternatives share, patterns that only mean the same, a keyword that it does not know. Those fit
where they are equal.

Two things that the schemas do not say are decided here, because callers live by them:

- A member that the first schema does not declare, though it would ignore one, is not counted on: were it, no type could ever
  get another optional field. A schema that forbids others explicitly where the first did not refuses what was accepted.
- A struct writes every field into an answer, also those with a default, which its schema calls optional. So of answers (`answers`)
  a declared member must stay declared, and a type without `additionalProperties` writes no others.

Source: Amadio and Cardelli, Subtyping recursive types (1993): a pair of schemas that is met again while it is being compared fits, as
far as that pair goes; so recursive ones end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import Enum
from fractions import Fraction
from typing import NamedTuple

from millstream_server.core.schema_kinds import Kinds, spelled, type_of
from millstream_server.core.schema_words import Schema, mapping


class Why(Enum):
    """What does not fit."""

    TYPE = "a value of the first is none of the second"
    GONE = "the second does not have this member any more"
    NEEDED = "the second requires a member that the first may leave out"
    UNKNOWN = "a keyword is not understood, and the schemas differ"


class Misfit(NamedTuple):
    """One place where schemas do not fit. `first` and `second` are the schemas there; None where there is none."""

    path: str
    why: Why
    first: object
    second: object
    keyword: str = ""


class _Fault(NamedTuple):
    """A step below two alternatives (empty: themselves); with `inside` the misfits are those of the schemas there."""

    step: str
    why: Why
    first: object
    second: object
    inside: bool = False


class Fit:
    """Compares schemas of two roots.

    Args:
        first: the root whose values are asked about.
        second: the root that is to allow them.
        answers: they are what a pipeline returns, not what it takes.
    """

    def __init__(self, first: Schema, second: Schema, *, answers: bool = False) -> None:
        self._first = Kinds(first, read=not answers)
        self._second = Kinds(second, read=not answers)
        self._answers = answers
        self._fitting: dict[tuple[bytes, bytes], None] = {}
        self._failed: set[tuple[bytes, bytes]] = set()

    def fits(self, first: object, second: object) -> bool:
        """Whether the second allows every value of the first."""
        pair = (spelled(first), spelled(second))
        if pair in self._failed:
            return False
        if pair in self._fitting:
            return True
        before = len(self._fitting)
        self._fitting[pair] = None
        if self._first.whole(first) == self._second.whole(second) or not self._uncovered(first, second):
            return True
        while len(self._fitting) > before:  # what was found to fit since then may have relied on this pair
            self._fitting.popitem()
        self._failed.add(pair)
        return False

    def misfits(self, first: object, second: object, path: str = "$") -> list[Misfit]:
        """The places where the second does not allow a value of the first, each once; empty where it fits."""
        return list(self._misfits(first, second, path, set()))

    def _misfits(self, first: object, second: object, path: str, told: set[tuple[bytes, bytes]]) -> Iterator[Misfit]:
        pair = (spelled(first), spelled(second))
        if pair in told or self.fits(first, second):
            return
        told.add(pair)
        seconds = self._second.of(second)
        whole = False
        for one in self._uncovered(first, second):
            near = [other for other in seconds if self._is_near(one, other)]
            if len(near) != 1:
                whole = True
                continue
            for fault in self._faults(one, near[0]):
                if fault.inside:
                    yield from self._misfits(fault.first, fault.second, path + fault.step, told)
                elif fault.step:
                    yield Misfit(path + fault.step, fault.why, fault.first, fault.second)
                else:
                    whole = True
        if whole:
            strange = [str(each["unknown"]) for each in (*self._first.of(first), *seconds) if "unknown" in each]
            yield Misfit(path, Why.UNKNOWN if strange else Why.TYPE, first, second, "".join(strange[:1]))

    def _uncovered(self, first: object, second: object) -> list[Schema]:
        seconds = self._second.of(second)
        return [one for one in self._first.of(first) if not any(self._covers(one, other) for other in seconds)]

    def _covers(self, one: Schema, other: Schema) -> bool:
        return next(self._faults(one, other), None) is None

    def _is_near(self, one: Schema, other: Schema) -> bool:
        """Whether two alternatives are meant to be the same: objects or arrays, and no tag of them differs."""
        if one.get("type") != other.get("type") or one.get("type") not in ("object", "array"):
            return False
        members, others = mapping(one.get("properties")), mapping(other.get("properties"))
        for name in set(members) & set(others):
            tags, wanted = _constants(self._first.of(members[name])), _constants(self._second.of(others[name]))
            if tags and wanted and not tags & wanted:
                return False
        return True

    def _faults(self, one: Schema, other: Schema) -> Iterator[_Fault]:
        """Where an alternative does not fit into another; none where it does."""
        misfit = _Fault("", Why.TYPE, one, other)
        if "unknown" in one or "unknown" in other:
            if one != other:
                yield misfit
        elif "const" in one:
            if not _allows(other, one["const"]):
                yield misfit
        else:
            match (one["type"], other.get("type")):
                case ("integer" | "number", "number") | ("integer", "integer"):
                    fitting = _number_fits(one, other)
                case ("string", "string"):
                    fitting = _string_fits(one, other)
                case ("array", "array"):
                    yield from self._array(one, other)
                    return
                case ("object", "object"):
                    yield from self._object(one, other)
                    return
                case _:
                    fitting = False
            if not fitting:
                yield misfit

    def _inside(self, step: str, first: object, second: object) -> Iterator[_Fault]:
        if not self.fits(first, second):
            yield _Fault(step, Why.TYPE, first, second, inside=True)

    # --- objects and arrays -------------------------------------------------------------------------------------------

    def _object(self, one: Schema, other: Schema) -> Iterator[_Fault]:
        members, others = mapping(one.get("properties")), mapping(other.get("properties"))
        always, needed = _names(one, "required"), _names(other, "required")
        rest: object = one.get("additionalProperties", not self._answers)
        for name in needed:
            if name not in always:
                yield _Fault(f".{name}", Why.NEEDED, members.get(name), others.get(name))
        for name in dict.fromkeys((*members, *others)):
            yield from self._member(name, one, other, rest)
        yield from self._inside(".*", rest, other.get("additionalProperties", True))
        if "propertyNames" in other and not self._names_fit(one, other["propertyNames"], closed=rest is False):
            yield _Fault("", Why.TYPE, one, other)
        most = _limit(one, "maxProperties", len(members) if rest is False else math.inf)
        if _limit(other, "minProperties", 0) > max(_limit(one, "minProperties", 0), len(always)):
            yield _Fault("", Why.TYPE, one, other)
        if _limit(other, "maxProperties", math.inf) < most:
            yield _Fault("", Why.TYPE, one, other)

    def _member(self, name: str, one: Schema, other: Schema, rest: object) -> Iterator[_Fault]:
        members, others = mapping(one.get("properties")), mapping(other.get("properties"))
        allowed = others.get(name, other.get("additionalProperties", True))
        if name in members:
            if allowed is False and name not in others:
                yield _Fault(f".{name}", Why.GONE, members[name], None)
            else:
                yield from self._inside(f".{name}", members[name], allowed)
        elif self._answers:
            if name not in _names(other, "required"):  # that one is told as needed
                yield _Fault(f".{name}", Why.GONE, None, others[name])
        elif "additionalProperties" in one:
            yield from self._inside(f".{name}", rest, allowed)

    def _names_fit(self, one: Schema, names: object, *, closed: bool) -> bool:
        if "propertyNames" in one:
            return self.fits(one["propertyNames"], names)
        return closed and all(self.fits({"const": name}, names) for name in mapping(one.get("properties")))

    def _array(self, one: Schema, other: Schema) -> Iterator[_Fault]:
        items, others = _items(one), _items(other)
        rest: object = one.get("items", not (self._answers and items))
        most = _limit(one, "maxItems", math.inf)
        most = next((place for place, item in enumerate([*items, rest]) if item is False and place < most), most)
        for place in range(max(len(items), len(others))):
            allowed = others[place] if place < len(others) else other.get("items", True)
            if place < len(items) and place < most:
                yield from self._inside(f"[{place}]", items[place], allowed)
            elif self._answers and items and place >= len(items):
                yield _Fault(f"[{place}]", Why.GONE, None, allowed)
            elif place < most and ("items" in one or not items):
                yield from self._inside(f"[{place}]", rest, allowed)
        if most > max(len(items), len(others)):
            yield from self._inside("[]", rest, other.get("items", True))
        if _limit(other, "minItems", 0) > _limit(one, "minItems", 0) or _limit(other, "maxItems", math.inf) < most:
            yield _Fault("", Why.TYPE, one, other)
        if other.get("uniqueItems") is True and one.get("uniqueItems") is not True and most > 1:
            yield _Fault("", Why.TYPE, one, other)


# --- numbers, strings, single values --------------------------------------------------------------------------------------

_Bound = tuple[Fraction, bool]
"""A limit, and whether it is itself excluded; turned round for upper ones, so that a greater bound always allows less."""


def _number_fits(one: Schema, other: Schema) -> bool:
    integers = one["type"] == "integer"
    for inclusive, exclusive, sign in (("minimum", "exclusiveMinimum", 1), ("maximum", "exclusiveMaximum", -1)):
        wanted = _bound(other, inclusive, exclusive, sign, integers=integers)
        given = _bound(one, inclusive, exclusive, sign, integers=integers)
        if wanted is not None and (given is None or given < wanted):
            return False
    if "multipleOf" in other:
        step = Fraction(str(one["multipleOf"])) if "multipleOf" in one else Fraction(1) if integers else None
        if step is None or step % Fraction(str(other["multipleOf"])):
            return False
    return other.get("format", one.get("format")) == one.get("format")


def _bound(schema: Schema, inclusive: str, exclusive: str, sign: int, *, integers: bool) -> _Bound | None:
    found: list[_Bound] = []
    for keyword, excluded in ((inclusive, False), (exclusive, True)):
        if keyword in schema:
            limit = sign * Fraction(str(schema[keyword]))
            if integers:  # the smallest integer that is allowed
                found.append((Fraction(math.floor(limit) + 1 if excluded else math.ceil(limit)), False))
            else:
                found.append((limit, excluded))
    return max(found, default=None)


def _string_fits(one: Schema, other: Schema) -> bool:
    if _limit(other, "minLength", 0) > _limit(one, "minLength", 0):
        return False
    if _limit(other, "maxLength", math.inf) < _limit(one, "maxLength", math.inf):
        return False
    return all(other.get(keyword, one.get(keyword)) == one.get(keyword) for keyword in ("pattern", "format", "contentEncoding"))


def _allows(other: Schema, value: object) -> bool:
    """Whether an alternative allows a value; what only a program could tell (patterns, formats, lists) it does not."""
    if "const" in other:
        return _equal(other["const"], value)
    match (type_of(value), other.get("type")):
        case ("integer", "integer" | "number") | ("number", "number"):
            limits = {keyword: limit for keyword, limit in other.items() if keyword != "multipleOf"}
            within = _number_fits({"type": type_of(value), "minimum": value, "maximum": value}, limits)
            return within and not Fraction(str(value)) % Fraction(str(other.get("multipleOf", value or 1)))
        case ("string", "string"):
            assert isinstance(value, str)
            return _string_fits({"minLength": len(value), "maxLength": len(value)}, other)
    return False


def _equal(one: object, other: object) -> bool:
    """As JSON has it: 1 and 1.0 are one number, and neither is true."""
    kinds = {type_of(one), type_of(other)}
    if kinds <= {"integer", "number"}:
        return one == other
    return len(kinds) == 1 and spelled(one) == spelled(other)


def _constants(alternatives: list[Schema]) -> set[bytes]:
    """The values of alternatives that are all single values, else none."""
    values = {spelled(each["const"]) for each in alternatives if "const" in each}
    return values if len(alternatives) == len([each for each in alternatives if "const" in each]) else set()


def _limit(schema: Schema, keyword: str, otherwise: float) -> float:
    value = schema.get(keyword, otherwise)
    return value if isinstance(value, int | float) else otherwise


def _names(schema: Schema, keyword: str) -> list[str]:
    value = schema.get(keyword)
    return [str(name) for name in value] if isinstance(value, list | tuple) else []


def _items(schema: Schema) -> list[object]:
    value = schema.get("prefixItems")
    return list(value) if isinstance(value, list | tuple) else []
