"""Bodies: bytes to what a handler's annotation asks for, and payloads to bytes.

Decoders are made once, when a handler is registered, from its annotation alone: never by anything in a message.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import types
import typing
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal, Union
from uuid import UUID

from memphis_worker.errors import DecodeError, InvalidHandler, InvalidOption

__all__ = ["Decode", "decoder_for", "encode"]

#: bytes -> the handler's argument. Raises DecodeError; its text names fields and types, never values.
Decode = Callable[[bytes], object]

_Convert = Callable[[Any, str], Any]
_PARSED: dict[type, Callable[[str], object]] = {
    datetime: datetime.fromisoformat,
    date: date.fromisoformat,
    UUID: UUID,
    Decimal: Decimal,
}


def decoder_for(annotation: object) -> Decode | None:
    """The decoder of a body annotation; `None` for `bytes`, which needs none. Raises InvalidHandler."""
    if annotation is bytes:
        return None
    if annotation is str:
        return _text
    convert = _converter(annotation, "the body")

    def decode(body: bytes) -> object:
        try:
            value = json.loads(body)
        except (ValueError, RecursionError) as exc:
            raise DecodeError(f"the body is not JSON ({type(exc).__name__})") from None
        try:
            return convert(value, "the body")
        except RecursionError:
            raise DecodeError("the body is nested too deeply") from None

    return decode


def encode(payload: object) -> bytes:
    """What `produce` sends: bytes as they are, text as UTF-8, a dataclass or anything JSON can hold as JSON.

    Raises InvalidOption.
    """
    if isinstance(payload, bytes | bytearray | memoryview):
        return bytes(payload)
    try:
        if isinstance(payload, str):
            return payload.encode()
        return json.dumps(payload, default=_plain, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise InvalidOption(
            f"a payload of type {type(payload).__name__} cannot be sent: it has half a surrogate pair"
        ) from None
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidOption(f"a payload of type {type(payload).__name__} cannot be sent: {exc}") from None


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, UUID | Decimal):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form; send bytes, text, a dict, a list or a dataclass")


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as exc:
        raise DecodeError(f"the body is not UTF-8 (byte {exc.start})") from None


# One converter for each kind of annotation, found once; each checks and builds, and names the place of a fault.


def _converter(annotation: object, where: str) -> _Convert:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in (Any, object):
        return lambda value, at: value
    if annotation is None or annotation is type(None):
        return _exactly("null", lambda value: value is None)
    if annotation is bool:
        return _exactly("true or false", lambda value: isinstance(value, bool))
    if annotation is int:
        return _exactly("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool))
    if annotation is float:
        return _number
    if annotation is str:
        return _exactly("text", lambda value: isinstance(value, str))
    if annotation in (dict, list) or origin in (dict, list):
        return _container(origin or annotation, arguments, where)
    if origin in (Union, types.UnionType):
        return _one_of([_converter(each, where) for each in arguments])
    if origin is Literal:
        return _exactly(
            f"one of {', '.join(map(repr, arguments))}",
            lambda value: any(value == each and type(value) is type(each) for each in arguments),
        )
    if isinstance(annotation, type):
        if dataclasses.is_dataclass(annotation):
            return _record(annotation)
        if issubclass(annotation, enum.Enum):
            return _parsed(annotation, annotation.__name__)
        if annotation in _PARSED:
            return _parsed(_PARSED[annotation], annotation.__name__, text=True)
    raise InvalidHandler(
        f"{where}: {annotation!r} is no type of a body; use bytes, str, dict, list or a dataclass of such fields"
    )


def _exactly(expected: str, fits: Callable[[Any], bool]) -> _Convert:
    def convert(value: Any, at: str) -> Any:
        if fits(value):
            return value
        raise DecodeError(f"{at} must be {expected}, not {_kind(value)}")

    return convert


def _number(value: Any, at: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise DecodeError(f"{at} is a number beyond float") from None
    raise DecodeError(f"{at} must be a number, not {_kind(value)}")


def _parsed(parse: Callable[[Any], object], name: str, *, text: bool = False) -> _Convert:
    def convert(value: Any, at: str) -> object:
        if text and not isinstance(value, str):
            raise DecodeError(f"{at} must be text that holds a {name}, not {_kind(value)}")
        try:
            return parse(value)
        except (ValueError, ArithmeticError, TypeError):
            raise DecodeError(f"{at} is not a {name}") from None

    return convert


def _container(kind: object, arguments: tuple[Any, ...], where: str) -> _Convert:
    if kind is list:
        item = _converter(arguments[0], where) if arguments else None

        def convert_list(value: Any, at: str) -> Any:
            if not isinstance(value, list):
                raise DecodeError(f"{at} must be a list, not {_kind(value)}")
            return value if item is None else [item(each, f"{at}[{i}]") for i, each in enumerate(value)]

        return convert_list
    if arguments and arguments[0] not in (str, Any):
        raise InvalidHandler(f"{where}: the keys of a JSON object are text; write dict[str, ...]")
    inner = _converter(arguments[1], where) if arguments else None

    def convert_dict(value: Any, at: str) -> Any:
        if not isinstance(value, dict):
            raise DecodeError(f"{at} must be an object, not {_kind(value)}")
        # The keys are data: no error text may hold them.
        return value if inner is None else {key: inner(each, f"a value of {at}") for key, each in value.items()}

    return convert_dict


def _one_of(choices: list[_Convert]) -> _Convert:
    def convert(value: Any, at: str) -> Any:
        fault: DecodeError | None = None
        for choice in choices:
            try:
                return choice(value, at)
            except DecodeError as exc:
                fault = fault or exc
        raise fault or DecodeError(f"{at} fits nothing")

    return convert


def _record(cls: type) -> _Convert:
    if cls in _UNDER_WAY:  # a dataclass that holds itself
        found = _UNDER_WAY[cls]
        return lambda value, at: found[0](value, at)
    holder: list[_Convert] = []
    _UNDER_WAY[cls] = holder
    try:
        holder.append(_fields(cls))
    finally:
        del _UNDER_WAY[cls]
    return holder[0]


#: Dataclasses whose converter is being made right now, each with the place where it will stand.
_UNDER_WAY: dict[type, list[_Convert]] = {}


def _fields(cls: type) -> _Convert:
    try:
        hints = typing.get_type_hints(cls)
    except NameError as exc:
        raise InvalidHandler(f"{cls.__name__}: its annotations cannot be resolved: {exc}") from exc
    fields = [each for each in dataclasses.fields(cls) if each.init]
    missing = dataclasses.MISSING
    required = [each.name for each in fields if each.default is missing and each.default_factory is missing]
    inner = {each.name: _converter(hints[each.name], f"{cls.__name__}.{each.name}") for each in fields}

    def convert(value: Any, at: str) -> object:
        if not isinstance(value, dict):
            raise DecodeError(f"{at} must be an object that makes a {cls.__name__}, not {_kind(value)}")
        for name in required:
            if name not in value:
                raise DecodeError(f"{at} has no {name!r}, which {cls.__name__} needs")
        known = {name: make(value[name], f"{at}.{name}") for name, make in inner.items() if name in value}
        try:
            return cls(**known)
        except (ValueError, TypeError) as exc:  # its own __post_init__
            raise DecodeError(f"{at} was refused by {cls.__name__} ({type(exc).__name__})") from None

    return convert


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
