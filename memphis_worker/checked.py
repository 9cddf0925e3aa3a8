"""Options of the right type, or one line that names the one that is not: users write them by hand, in Python."""

from __future__ import annotations

import functools
import math
import types
import typing
from collections.abc import Hashable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Union

from memphis_worker.errors import InvalidOption

__all__ = ["check_option", "check_types"]

_WORDS: dict[object, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    type(None): "None",
}


def check_types(record: Any) -> None:
    """Every field of a dataclass against its annotation. Raises InvalidOption; the value of a secret is not shown."""
    cls: type = type(record)
    hints = _hints(cls)
    for each in fields(record):
        check_option(each.name, getattr(record, each.name), hints[each.name], secret=not each.repr)


def check_option(name: str, value: object, hint: object, *, secret: bool = False) -> None:
    """Raises InvalidOption when the value does not fit the annotation."""
    if not _fits(value, hint):
        shown = f"a {type(value).__name__}" if secret else repr(value)
        raise InvalidOption(f"{name} is {shown}; it must be {_words(hint)}")


@functools.cache
def _hints(cls: Hashable) -> Mapping[str, Any]:
    return typing.get_type_hints(cls)


def _choices(hint: object) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fits(value: object, hint: object) -> bool:
    return any(_fits_one(value, each) for each in _choices(hint))


def _fits_one(value: object, hint: Any) -> bool:
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if typing.get_origin(hint) is Literal:
        return any(value is each or (type(value) is type(each) and value == each) for each in typing.get_args(hint))
    kind = typing.get_origin(hint) or hint
    return isinstance(value, kind) if isinstance(kind, type) else True


def _words(hint: object) -> str:
    words = []
    for each in _choices(hint):
        if typing.get_origin(each) is Literal:
            words += [repr(choice) for choice in typing.get_args(each)]
        else:
            kind: Any = typing.get_origin(each) or each
            words.append(_WORDS.get(kind) or f"a {kind.__name__}")
    return " or ".join(words)
