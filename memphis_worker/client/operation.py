"""Work that starts when it is called, awaited or not: one piece at a time, in the order of the calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator

from memphis_worker.errors import ConnectionClosed
from memphis_worker.log import get_logger

__all__ = ["Operation", "Operations"]

log = get_logger(__name__)

Work = Callable[[], Coroutine[object, object, object]]


class Operation:
    """A create or destroy that runs already. Awaiting it, a second time too, confirms it or raises its error."""

    __slots__ = ("_asked", "_name", "_task")

    def __init__(self, name: str, task: asyncio.Task[None]) -> None:
        self._name = name
        self._task = task
        self._asked = False

    def __repr__(self) -> str:
        return f"<Operation {self._name}, {'done' if self._task.done() else 'running'}>"

    def __await__(self) -> Generator[object, None, None]:
        return self._outcome().__await__()

    async def _outcome(self) -> None:
        self._asked = True
        await asyncio.wait({self._task})  # Whoever waits may be cancelled; the work goes on.
        if self._task.cancelled():
            raise ConnectionClosed(f"{self._name}: not finished, the connection was closed")
        error = self._task.exception()
        if error is not None:
            raise error

    @property
    def unheard(self) -> BaseException | None:
        """Its error, if it failed and nobody has asked."""
        if self._asked or not self._task.done() or self._task.cancelled():
            return None
        return self._task.exception()


class Operations:
    """All the operations of one connection. Creates are not atomic on the broker, so they run one at a time."""

    def __init__(self) -> None:
        self._one_at_a_time = asyncio.Lock()
        self._open: dict[asyncio.Task[None], Operation] = {}

    def start(self, name: str, work: Work) -> Operation:
        """Starts behind all those that were started before. Must be called with the loop running."""
        task = asyncio.get_running_loop().create_task(self._run(work), name=name)
        operation = self._open[task] = Operation(name, task)
        task.add_done_callback(self._done)
        return operation

    async def finish(self, timeout_s: float) -> None:
        """Lets them end, cancels what takes longer, and logs each error that nobody has asked for."""
        running = {task for task in self._open if not task.done()}
        if running:
            _, late = await asyncio.wait(running, timeout=timeout_s)
            for task in late:
                log.error("operation.cancelled", operation=task.get_name(), after_s=timeout_s)
                task.cancel()
            if late:
                await asyncio.wait(late)
        for task, operation in self._open.items():
            error = operation.unheard
            if error is not None:
                log.error("operation.failed", operation=task.get_name(), error=f"{type(error).__name__}: {error}")
        self._open.clear()

    async def _run(self, work: Work) -> None:
        async with self._one_at_a_time:
            await work()

    def _done(self, task: asyncio.Task[None]) -> None:
        # Looking at the exception keeps asyncio from reporting it as never retrieved; `finish` reports it.
        if task.cancelled() or task.exception() is None:
            self._open.pop(task, None)
