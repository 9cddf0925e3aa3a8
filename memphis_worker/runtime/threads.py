"""Threads for plain `def` handlers: our own, daemons, reporting back in batches.

`run_in_executor` would do a third of the work in the same time (a future chain and a wake-up for each call), and it
holds up the exit of the process until the last thread has ended.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

__all__ = ["Threads"]

_Job = tuple[Callable[..., object], tuple[object, ...], dict[str, Any], contextvars.Context, "asyncio.Future[object]"]


class Threads:
    """A bounded set of threads, started when they are first needed."""

    def __init__(self, limit: int, name: str = "handler") -> None:
        self.limit = limit
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._done: deque[tuple[asyncio.Future[object], object, BaseException | None]] = deque()
        self._lock = threading.Lock()
        self._reported = False
        self._closed = asyncio.Event()
        self._started = 0
        self._busy = 0

    def run(self, function: Callable[..., object], *args: object, **kwargs: Any) -> asyncio.Future[object]:
        """Calls the function in a thread, in a copy of the current context. Its exception comes out of the future."""
        future: asyncio.Future[object] = self._loop.create_future()
        if self._busy >= self._started and self._started < self.limit:
            try:
                self._start()
            except RuntimeError as exc:  # the system gives no more of them
                if not self._started:
                    future.set_exception(exc)
                    return future
        self._busy += 1
        self._jobs.put((function, args, kwargs, contextvars.copy_context(), future))
        return future

    async def outlast(self, future: asyncio.Future[object]) -> None:
        """Returns when the call has ended, or when nobody waits for threads any more."""
        closed = asyncio.ensure_future(self._closed.wait())
        either: set[asyncio.Future[Any]] = {future, closed}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closed.cancel()

    def close(self) -> None:
        """Idle threads end; running ones are left alone, and do not keep the process."""
        self._closed.set()
        for _ in range(self._started):
            self._jobs.put(None)

    def _start(self) -> None:
        name = f"{self._name}-{self._started + 1}"
        threading.Thread(target=self._work, name=name, daemon=True).start()
        self._started += 1

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            function, args, kwargs, context, future = job
            result: object = None
            error: BaseException | None = None
            try:
                result = context.run(function, *args, **kwargs)
            except BaseException as exc:  # noqa: BLE001 - a user's handler: also SystemExit is a failure of this message
                error = exc
            self._report(future, result, error)
            del job, function, args, kwargs, context, future, result, error

    def _report(self, future: asyncio.Future[object], result: object, error: BaseException | None) -> None:
        self._done.append((future, result, error))
        with self._lock:
            if self._reported:
                return
            self._reported = True
        try:
            self._loop.call_soon_threadsafe(self._collect)
        except RuntimeError:  # the loop has ended before the thread
            return

    def _collect(self) -> None:
        with self._lock:
            self._reported = False
        done = self._done
        while done:
            future, result, error = done.popleft()
            self._busy -= 1
            if future.done():
                continue
            if error is None:
                future.set_result(result)
            elif isinstance(error, StopIteration):
                future.set_exception(RuntimeError("the handler raised StopIteration"))
            else:
                future.set_exception(error)
