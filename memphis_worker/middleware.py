"""The one way to wrap handlers: `async def middleware(message, call_next): ...; return await call_next(message)`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from memphis_worker.client.message import Message

__all__ = ["Call", "Middleware", "compose"]

#: Runs a handler for one message.
Call = Callable[[Message], Awaitable[object]]

#: Wraps it. An exception that it lets through, or raises, is the handler's.
Middleware = Callable[[Message, Call], Awaitable[object]]


def compose(call: Call, middleware: Sequence[Middleware]) -> Call:
    """The handler inside its middleware, the first one outermost; built once, not for each message."""
    for wrap in reversed(middleware):
        call = _wrapped(wrap, call)
    return call


def _wrapped(wrap: Middleware, inner: Call) -> Call:
    def call(message: Message) -> Awaitable[object]:
        return wrap(message, inner)

    return call
