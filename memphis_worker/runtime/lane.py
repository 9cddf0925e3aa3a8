"""Lane: one handler at work. What waits for it, what runs, and what it has finished."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Iterator
from typing import Literal

from memphis_worker.client.message import Message
from memphis_worker.handler import Handler
from memphis_worker.middleware import Call
from memphis_worker.runtime.done import Done
from memphis_worker.runtime.settlement import CRASH_MARGIN

__all__ = ["Cancelled", "HandlerTimeout", "Lane", "refuse_unawaited"]

#: Why the executor has cancelled a handler, or given up waiting for it.
Cancelled = Literal["stop", "timeout", "lease", "abandoned"]


class HandlerTimeout(TimeoutError):
    """A handler ran longer than its `timeout_s`."""


class Lane:
    """One handler at work: what waits for it, and what runs."""

    def __init__(self, handler: Handler, call: Call, *, limit: int, max_deliver: int, ack_wait_s: float) -> None:
        self.handler = handler
        self.call = call if handler.options.timeout_s is None else _limited(call, handler.options.timeout_s)
        self.limit = limit
        self.max_deliver = max_deliver
        self.ack_wait_s = ack_wait_s
        self.suspect_after = handler.options.max_msg_deliveries + CRASH_MARGIN
        self.done = Done()
        self.ready: deque[Message] = deque()
        self.runners = 0
        self.owner: asyncio.Task[None] | None = None
        """The runner that empties `ready` right now."""
        self.inside: Message | None = None
        """What the owner's handler has and has not given back."""
        self.suspended: dict[asyncio.Task[None], Message] = {}
        self.cancelled: dict[asyncio.Task[None], Cancelled] = {}
        self.looking = False

    @property
    def running(self) -> int:
        """Handlers that have a message."""
        return len(self.suspended) + (self.inside is not None)

    def allowed(self, message: Message) -> int:
        """How often the broker delivers it. What its operator sent again comes once."""
        return 1 if message.resent else self.max_deliver

    def held(self) -> Iterator[Message]:
        yield from list(self.ready)
        if self.inside is not None:
            yield self.inside
        yield from list(self.suspended.values())


def _limited(call: Call, timeout_s: float) -> Call:
    async def limited(message: Message) -> object:
        try:
            async with asyncio.timeout(timeout_s) as limit:
                return await call(message)
        except TimeoutError as exc:
            if limit.expired():
                raise HandlerTimeout(f"the handler ran longer than its timeout_s of {timeout_s:g} s") from exc
            raise

    return limited


def refuse_unawaited(result: object) -> None:
    """What a handler gives back may be anything but work that has not been done: an ack would lose it.

    Raises TypeError for a coroutine, another awaitable, or a generator.
    """
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError("the handler or a middleware returned a coroutine instead of awaiting it: return await ...")
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise TypeError("the handler returned a generator, which has not run: a handler has no yield")
