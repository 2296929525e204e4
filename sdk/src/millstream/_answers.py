"""From what pipeline code returned to the JSON bytes of a result, or to the fault that says why not.

Checks run in this order: the return annotation (wrong_result), what JSON can carry (not_json, with the path), the size
(result_too_large). msgspec writes NaN and infinity as `null`; so wherever `null` occurs in the bytes the value is searched, and
a NaN never leaves as `null`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, get_args, get_origin

import msgspec

from millstream._columns import is_columnar, library_of, plain_type, record_of
from millstream._failures import DECODE_ERRORS, Fault, split_path
from millstream._plain import as_list, to_builtin
from millstream._signature import MISSING, find_foreign, json_decoder
from millstream.wire import WireError

DEFAULT_MAX_RESULT_BYTES = 8 * 1024 * 1024
_SCALARS: tuple[tuple[type, frozenset[type]], ...] = (
    (int, frozenset({int})),
    (float, frozenset({float, int})),
    (str, frozenset({str})),
    (bool, frozenset({bool})),
)


def _to_builtin_or_raw(value: Any) -> Any:
    return msgspec.json.decode(bytes(value)) if isinstance(value, msgspec.Raw) else to_builtin(value)


_encode = msgspec.json.Encoder(enc_hook=to_builtin).encode
_validate = msgspec.json.Decoder(msgspec.Raw).decode


class Answers:
    """Checks and encodes the answers of one pipeline.

    Args:
        returns: the return annotation, or `MISSING`.
        max_bytes: what one result may weigh as JSON.
    """

    def __init__(self, returns: Any, max_bytes: int = DEFAULT_MAX_RESULT_BYTES) -> None:
        self._returns = returns
        self._max_bytes = max_bytes
        self._check_value = _value_check(returns)
        self._decode = _json_check(returns)
        self._may_hold_raw = not _is_scalars(returns)

    def encode(self, value: Any) -> bytes:
        """Encode one answer.

        Raises:
            Fault: wrong_result, not_json or result_too_large, each with its path; a failure of the pipeline, not of the caller.
        """
        sure = self._check_value(value)
        if sure is False:
            raise _fault("wrong_result", f"the pipeline returned {_kind(value)}, its annotation says {_spell(self._returns)}", "$")
        body = self._to_json(value)
        if b"null" in body:
            path = find_nan(value)
            if path is not None:
                raise _fault("not_json", "the result holds a number that JSON cannot carry (NaN or infinity)", path)
        if len(body) > self._max_bytes:
            raise _fault("result_too_large", f"the result is {len(body)} bytes, at most {self._max_bytes} are allowed", "$")
        if sure is None and self._decode is not None:
            self._check_json(value, body)
        return body

    def encode_parts(self, answer: Any, lengths: Sequence[int]) -> list[bytes] | None:
        """Encode the parts of a joined answer at once, where all of them are right; a part is `answer[start:start + length]`.

        Returns:
            One body a part, equal to what `encode` makes of it, or None: then some part may be wrong, and `encode` tells which.
        """
        if self._check_value(answer) is False:
            return None
        try:
            plain = answer if isinstance(answer, list) else as_list(answer)
        except Exception:
            # An author's `tolist`; encoding the parts one by one tells what is wrong with it.
            return None
        if plain is not answer and is_columnar(self._returns) and self._decode is None:
            sure: bool | None = True
        else:
            sure = self._check_value(plain)
        if not sure:
            return None
        bodies, start = [], 0
        try:
            for length in lengths:
                bodies.append(self._to_json(plain[start : start + length]))
                start += length
        except Fault:
            return None
        if any(b"null" in body for body in bodies) or max(map(len, bodies)) > self._max_bytes:
            return None
        return bodies

    def _to_json(self, value: Any) -> bytes:
        try:
            body = _encode(value)
            if self._may_hold_raw:
                # msgspec copies `Raw` as it is; what is no JSON in there would break the record that the result becomes.
                _validate(body)
        except Exception as error:
            # Encoding runs authors' `tolist`, so any exception can come out of it.
            raise _unencodable(value, error) from None
        return body

    def _check_json(self, value: Any, body: bytes) -> None:
        """Hold the bytes against the annotation: what the caller reads is what the schema promises."""
        assert self._decode is not None
        try:
            self._decode(body)
        except DECODE_ERRORS as error:
            message, path = split_path(str(error))
            sentence = f"the pipeline returned {_kind(value)} where its annotation says {_spell(self._returns)}: {message}"
            raise _fault("wrong_result", sentence, path) from None


def find_nan(value: Any) -> str | None:
    """The JSON path of the first NaN or infinity in a value that msgspec has encoded, or None."""
    waiting: list[tuple[str, Any]] = [("$", msgspec.to_builtins(value, str_keys=True, enc_hook=_to_builtin_or_raw))]
    while waiting:
        path, found = waiting.pop()
        if isinstance(found, float) and not math.isfinite(found):
            return path
        waiting.extend((path + step, child) for step, child in reversed(_children(found)))
    return None


def _unencodable(value: Any, error: Exception) -> Fault:
    """Say why a value has no JSON, and where: walk down while a single child alone fails."""
    path, culprit = "$", value
    for _ in range(100):
        step = next(((name, child) for name, child in _children(culprit) if not _encodable(child)), None)
        if step is None:
            break
        path, culprit = path + step[0], step[1]
    if isinstance(error, RecursionError):
        return _fault("not_json", "the result contains itself or is nested too deeply", "$")
    reason = str(error).encode("utf-8", "backslashreplace").decode()
    return _fault("not_json", f"{_kind(culprit)} cannot be written as JSON: {reason}", path)


def _children(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(f".{key}", item) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [(f"[{index}]", item) for index, item in enumerate(value)]
    if library_of(type(value)) in ("pandas", "pyarrow"):
        return _children_of_frame(value)
    names = getattr(value, "__struct_fields__", None) or getattr(value, "__dataclass_fields__", None) or ()
    return [(f".{name}", getattr(value, name)) for name in names if hasattr(value, name)]


def _children_of_frame(value: Any) -> list[tuple[str, Any]]:
    try:
        plain = to_builtin(value)
    except Exception:  # asked only to find the culprit of an error that is being reported: without it the whole frame is named
        return []
    return _children(plain) if isinstance(plain, list) else []


def _encodable(value: Any) -> bool:
    try:
        _encode(value)
    except Exception:
        # Asked only to find the culprit of an error that is being reported.
        return False
    return True


# --- the return annotation --------------------------------------------------------------------------------------------


def _value_check(returns: Any) -> Callable[[Any], bool | None]:
    """A cheap look at the Python value: True is right, False is wrong, None leaves it to the JSON."""
    if returns is MISSING or returns is Any or returns is object:
        return lambda value: True
    if returns is None or returns is type(None):
        return lambda value: value is None
    if any(returns is container for container in (list, tuple, dict, set, frozenset)):
        return lambda value: True if type(value) is returns else None
    if is_columnar(returns):
        cls = get_origin(plain_type(returns)) or plain_type(returns)
        sure = True if record_of(returns) is None else None
        return lambda value: sure if isinstance(value, cls) else False
    exact = _exact_types(returns)
    if exact is not None:
        return lambda value: True if type(value) in exact else None
    if _is_class(returns):
        return lambda value: isinstance(value, returns)
    if get_origin(returns) is list:
        return _list_check(get_args(returns)[0])
    return lambda value: None


def _is_scalars(returns: Any) -> bool:
    """Plain scalars or a list of them, as `_value_check` makes sure of by their exact types."""
    return _exact_types(returns) is not None or (get_origin(returns) is list and _exact_types(get_args(returns)[0]) is not None)


def _exact_types(annotation: Any) -> frozenset[type] | None:
    """By identity: an annotation need not be hashable."""
    return next((exact for scalar, exact in _SCALARS if annotation is scalar), None)


def _list_check(element: Any) -> Callable[[Any], bool | None]:
    if element is Any or element is object:
        return lambda value: True if type(value) is list else None
    exact = _exact_types(element)
    if exact is not None:
        return lambda value: True if type(value) is list and exact.issuperset(map(type, value)) else None
    if _is_class(element):
        return lambda value: isinstance(value, (list, tuple)) and all(isinstance(item, element) for item in value)
    return lambda value: None


def _is_class(annotation: Any) -> bool:
    """A dataclass or Struct: its instances are told by isinstance, and a dict of the same keys is not one of them."""
    return isinstance(annotation, type) and (hasattr(annotation, "__struct_fields__") or hasattr(annotation, "__dataclass_fields__"))


def _json_check(returns: Any) -> Callable[[bytes], Any] | None:
    if returns is MISSING:
        return None
    record = record_of(returns)
    if record is not None:
        return json_decoder(list[record])  # type: ignore[valid-type]
    return None if is_columnar(returns) or find_foreign(returns) is not None else json_decoder(returns)


def _fault(code: str, message: str, path: str) -> Fault:
    return Fault("failed", WireError(code, message, path=path))


def _kind(value: Any) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _spell(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)
