"""A loop whose clock jumps to the next timer when nothing is ready: an hour of backoff takes no time to test.

Nothing waits for real, so a test is as deterministic as the code it runs. Threads are the exception: while one that
began after the loop is alive, the loop gives it a few real milliseconds before each jump.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

__all__ = ["Stuck", "VirtualLoop", "run"]

T = TypeVar("T")

#: Real seconds that a living thread gets before the clock jumps, and those until a test that waits for one is stuck.
THREAD_GRACE_S = 0.003
THREAD_LIMIT_S = 10.0


class Stuck(RuntimeError):
    """Every task waits, no timer is set and no thread is at work: nothing can happen any more."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` is virtual seconds. It stands still while code runs, unless that calls `advance`."""

    def __init__(self, start_s: float = 1000.0) -> None:
        self._now = start_s
        super().__init__(_Jumping(self))

    def time(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """As if the code that runs right now had taken so long: a blocked loop, a slow handler."""
        self._now += seconds


def run(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


class _Jumping(selectors.BaseSelector):
    """The real selector, asked without waiting; what it would have waited is added to the clock."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._real = selectors.DefaultSelector()
        self._strangers = set(threading.enumerate())

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = self._real.select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        if not self._strangers.issuperset(threading.enumerate()):
            events = self._real.select(THREAD_LIMIT_S if timeout is None else THREAD_GRACE_S)
            if events:
                return events
        if timeout is None:
            raise Stuck("every task waits, no timer is set: nothing can happen any more")
        self._loop.advance(timeout)
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def close(self) -> None:
        self._real.close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()
