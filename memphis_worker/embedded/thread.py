"""An embedded broker on a thread and an event loop of its own, so that a blocked handler cannot stall it."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from types import TracebackType

from memphis_worker.embedded.broker import EmbeddedBroker

__all__ = ["BrokerThread"]

STOP_S = 15.0


class BrokerThread:
    """`with BrokerThread(EmbeddedBroker(...)) as url:` the broker answers at `url` until the block ends.

    Raises on entry what `EmbeddedBroker.start` raises.
    """

    def __init__(self, broker: EmbeddedBroker) -> None:
        self._broker = broker
        self._url: Future[str] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._life()), name="embedded-broker", daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        try:
            return self._url.result()
        except BaseException:  # also a Ctrl-C while it starts: nothing may stay behind
            self._end()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self._loop is None:
            self._stop.set()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(STOP_S)

    async def _life(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            async with self._broker as broker:
                self._url.set_result(broker.url)
                await self._stop.wait()
        except BaseException as exc:
            if self._url.done():
                raise
            self._url.set_exception(exc)
