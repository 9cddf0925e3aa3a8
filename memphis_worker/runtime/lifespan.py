"""The app's lifespan, in a task of its own: what the broker refuses it never sees, and a hang cannot hold up a stop."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

from memphis_worker.failure import failure
from memphis_worker.log import get_logger
from memphis_worker.runtime.stop import Stop, ended_before

__all__ = ["Lifespan"]

log = get_logger(__name__)

LEAVE_S = 5.0
CANCEL_S = 1.0


class Lifespan:
    """Entered and left in one task, as task groups and cancel scopes inside of it need."""

    def __init__(self, context: AbstractAsyncContextManager[None] | None, stop: Stop) -> None:
        self._context = context
        self._stop = stop
        self._entered = asyncio.Event()
        self._leave = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def enter(self) -> bool:
        """False when the stop came first. Raises what the lifespan raises."""
        if self._context is None:
            return True
        self._task = asyncio.create_task(self._life(self._context), name="lifespan")
        entered = asyncio.create_task(self._entered.wait(), name="lifespan entered")
        stopped = asyncio.create_task(self._stop.requested.wait(), name="lifespan stop")
        try:
            await asyncio.wait({self._task, entered, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            entered.cancel()
            stopped.cancel()
        if self._task.done():
            self._task.result()
            raise RuntimeError("the lifespan ended without a yield")
        return self._entered.is_set()

    async def leave(self) -> BaseException | None:
        """Returns what its end raised. It gets 5 seconds, and none after a second signal."""
        task = self._task
        if task is None:
            return None
        self._leave.set()
        if not self._entered.is_set() or not await ended_before(self._stop.at_once, _ended(task), LEAVE_S):
            task.cancel()
            await ended_before(None, _ended(task), CANCEL_S)
            log.error("hook.failed", hook="lifespan", error="cut off, because it did not end")
            return None
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("hook.failed", hook="lifespan", **failure(error))
        return error

    async def _life(self, context: AbstractAsyncContextManager[None]) -> None:
        async with context:
            self._entered.set()
            await self._leave.wait()


async def _ended(task: asyncio.Task[None]) -> None:
    await asyncio.wait({task})
