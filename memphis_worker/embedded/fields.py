"""The parameters of an endpoint: read from a JSON body or a query string, then checked, as Go and its validator do.

Source of the rules and texts: exchanges recorded with Memphis 0.3.0 (tests/wire/classic).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl

from memphis_worker.embedded import gojson
from memphis_worker.embedded.ids import decode_id

INT64 = 1 << 63
_INT = re.compile(r"[+-]?[0-9]+")
_TRUE = {"1", "t", "T", "true", "TRUE", "True"}
_FALSE = {"0", "f", "F", "false", "FALSE", "False"}
_ZERO: Mapping[str, Any] = {"str": "", "int": 0, "bool": False, "ids": None}

Values = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One parameter. `shown` is its name in a validation error, where that differs."""

    name: str
    kind: Literal["str", "int", "bool", "ids"] = "str"
    required: bool = False
    most: int | None = None
    """Characters of a string."""
    least: int | None = None
    """Value of an int."""
    shown: str | None = None

    @property
    def zero(self) -> Any:
        """What it is when it is absent or null."""
        return _ZERO[self.kind]


def required(*names: str, most: int | None = None) -> tuple[Field, ...]:
    """Strings that must be there and not empty."""
    return tuple(Field(name=name, required=True, most=most) for name in names)


def from_json(fields: Sequence[Field], body: bytes) -> Values:
    """Values by field name: keys in any case, the last of two wins, unknown keys are ignored, null is the zero value.

    ValueError for what is not JSON or has a wrong type.
    """
    decoded = gojson.loads_first(body)
    values = {field.name: field.zero for field in fields}
    if decoded is None:
        return values
    if not isinstance(decoded, dict):
        raise ValueError("not an object")
    by_name = {field.name.lower(): field for field in fields}
    for key, value in decoded.items():
        field = by_name.get(key.lower())
        if field is not None and value is not None:
            values[field.name] = _typed(field, value)
    return values


def _typed(field: Field, value: object) -> object:
    match field.kind, value:
        case "bool", bool():
            return value
        case "int", int() if not isinstance(value, bool) and -INT64 <= value < INT64:
            return value
        case "str", str():
            return gojson.no_surrogates(value)
        case "ids", list():
            return [decode_id(item) for item in value]
    raise ValueError(f"{field.name} has a wrong type")


def from_query(fields: Sequence[Field], query: str) -> tuple[Values, bool]:
    """Values by field name (the first of several), and whether all could be read.

    An int or bool that cannot be read empties itself and all that follow, and then nothing is checked.
    """
    given: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        given.setdefault(key, value)
    values = {field.name: field.zero for field in fields}
    for field in fields:
        try:
            values[field.name] = _parsed(field, given[field.name]) if given.get(field.name) else field.zero
        except ValueError:
            return values, False
    return values, True


def _parsed(field: Field, written: str) -> object:
    match field.kind:
        case "int" if _INT.fullmatch(written) and -INT64 <= int(written) < INT64:
            return int(written)
        case "bool" if written in _TRUE | _FALSE:
            return written in _TRUE
        case "str":
            return written
    raise ValueError(f"{field.name} cannot be read")


def problems(fields: Sequence[Field], values: Values) -> list[dict[str, str]]:
    """What is wrong with each field, in their order: `{"field": ..., "reason": ...}`."""
    found = ((field, _problem(field, values[field.name])) for field in fields)
    return [{"field": field.shown or field.name, "reason": reason} for field, reason in found if reason]


def _problem(field: Field, value: Any) -> str | None:
    if field.required and value == field.zero:
        return "required"
    if field.most is not None and len(value) > field.most:
        return f"max={field.most}"
    if field.least is not None and value < field.least:
        return f"min={field.least}"
    return None
