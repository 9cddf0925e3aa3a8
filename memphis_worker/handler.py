"""Handler: the frozen record of one decorated function, checked when it is made, not when the first message comes."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from memphis_worker.client.message import Message
from memphis_worker.client.names import DEAD_STATION, group_name, station_name
from memphis_worker.codec import Decode, decoder_for
from memphis_worker.context import Context
from memphis_worker.errors import DecodeError, InvalidHandler, InvalidName, InvalidOption
from memphis_worker.middleware import Call
from memphis_worker.options import HandlerOptions, StationOptions
from memphis_worker.retry import Backoff

__all__ = ["Handler", "Undecodable"]

_Function = Callable[..., object]


class Undecodable(DecodeError):
    """A DecodeError of the handler's own body, as opposed to one that the user's code raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """One handler: what to call, for which group of which station, and how."""

    name: str
    station: str
    group: str
    function: _Function
    options: HandlerOptions
    retry: Backoff
    station_options: StationOptions | None
    arguments: tuple[str, ...]
    """Which parameters it has, in order: `body`, `message`, `context`."""
    keywords: tuple[tuple[str, str], ...]
    """Keyword-only parameters: their name, and which of the three it gets."""
    decode: Decode | None
    is_async: bool

    def __repr__(self) -> str:
        return f"<Handler {self.name} {self.station}/{self.group}>"

    @property
    def dead_station(self) -> str | None:
        """Where its dead letters go; `None` where it wants none."""
        return _dead_station(self.options)

    def call(self, invoke: Callable[..., Awaitable[object]], context: Callable[[Message], Context]) -> Call:
        """The function from message to awaitable: decodes the body and hands over what the signature asks for.

        `invoke` calls the function: itself for an async handler, by a thread for a plain one.
        """
        decode, body_only = self.decode, self.arguments == ("body",) and not self.keywords
        if body_only and decode is None:
            return lambda message: invoke(message.data)

        def body_of(message: Message) -> object:
            if decode is None:
                return message.data
            try:
                return decode(message.data)
            except DecodeError as exc:
                raise Undecodable(str(exc)) from exc

        if body_only:
            return lambda message: invoke(body_of(message))
        if self.arguments == ("message",) and not self.keywords:
            return lambda message: invoke(message)
        pick: dict[str, Callable[[Message], object]] = {
            "body": body_of,
            "message": lambda message: message,
            "context": context,
        }
        positional = [pick[each] for each in self.arguments]
        named = [(name, pick[each]) for name, each in self.keywords]

        def call(message: Message) -> Awaitable[object]:
            return invoke(*(get(message) for get in positional), **{name: get(message) for name, get in named})

        return call


def make_handler(
    function: _Function,
    *,
    station: str,
    group: str | None,
    name: str | None,
    options: HandlerOptions,
    retry: Backoff,
    station_options: StationOptions | None,
) -> Handler:
    """Checks everything that can be checked without a broker. Raises InvalidHandler, InvalidName, InvalidOption."""
    if not callable(function):
        raise InvalidHandler(f"@handler stands on {function!r}; put it on a function")
    where = name or f"{function.__module__}.{getattr(function, '__qualname__', type(function).__name__)}"
    if not where.isprintable():
        raise InvalidHandler(f"name is {where!r}; it must be printable text")
    inner = inspect.unwrap(function)
    if inspect.isasyncgenfunction(inner) or inspect.isgeneratorfunction(inner):
        raise InvalidHandler(f"handler {where} has a yield; a handler is a plain def or an async def")
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
    called = function
    if not is_async and inspect.iscoroutinefunction(inner):  # a plain decorator around an async def
        called, is_async = _awaiting(function), True
    if options.timeout_s is not None and not is_async:
        raise InvalidOption(
            f"handler {where}: timeout_s needs an async def; a thread cannot be stopped, "
            "and its message would run twice"
        )
    try:
        arguments, keywords, decode = _signature(function, where)
        group = group_name(group or re.sub(r"\W", "_", getattr(function, "__name__", "handler")))
        station = station_name(station)
    except InvalidName as exc:
        raise InvalidName(f"handler {where}: {exc}") from exc
    if _dead_station(options) == station:
        raise InvalidOption(
            f"handler {where}: its dead letters would go to the station it consumes, {station!r}; "
            "give it dead_letter=False or another station"
        )
    return Handler(
        name=where,
        station=station,
        group=group,
        function=called,
        options=options,
        retry=retry,
        station_options=station_options,
        arguments=arguments,
        keywords=keywords,
        decode=decode,
        is_async=is_async,
    )


def _dead_station(options: HandlerOptions) -> str | None:
    target = options.dead_letter
    if target is False:
        return None
    return DEAD_STATION if target == "auto" else station_name(target)


def _awaiting(function: _Function) -> _Function:
    async def awaited(*args: object, **kwargs: object) -> object:
        result = function(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result

    return awaited


def _signature(function: _Function, where: str) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...], Decode | None]:
    try:
        hints = typing.get_type_hints(function if inspect.isroutine(function) else type(function).__call__)
    except (NameError, AttributeError, TypeError, SyntaxError) as exc:
        raise InvalidHandler(f"handler {where}: its annotations cannot be resolved: {exc}") from exc
    arguments: list[str] = []
    keywords: list[tuple[str, str]] = []
    decode: Decode | None = None
    seen_body = skipped = False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.name not in hints:
            if parameter.default is not parameter.empty:
                skipped = True
                continue
            raise InvalidHandler(
                f"handler {where}: parameter {parameter.name!r} has no annotation; write for example "
                f"{parameter.name}: bytes, dict, a dataclass, Message or Context"
            )
        annotation = hints[parameter.name]
        if annotation is Message:
            kind = "message"
        elif annotation is Context:
            kind = "context"
        elif parameter.default is not parameter.empty and seen_body:
            skipped = True
            continue
        elif seen_body:
            raise InvalidHandler(
                f"handler {where}: parameter {parameter.name!r} would be a second body; a message has one"
            )
        else:
            kind, seen_body = "body", True
            try:
                decode = decoder_for(annotation)
            except InvalidHandler as exc:
                raise InvalidHandler(f"handler {where}: parameter {parameter.name!r}: {exc}") from exc
        if skipped or parameter.kind is parameter.KEYWORD_ONLY:
            keywords.append((parameter.name, kind))
        else:
            arguments.append(kind)
    if not arguments and not keywords:
        raise InvalidHandler(f"handler {where} takes no parameter; it needs the body, for example body: bytes")
    return tuple(arguments), tuple(keywords), decode
