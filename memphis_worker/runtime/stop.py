"""The wish to stop: once to drain, twice to hand back at once; and the signals that say so."""

from __future__ import annotations

import asyncio
import faulthandler
import signal
import sys
from collections.abc import Awaitable

from memphis_worker.log import get_logger

__all__ = ["Stop", "ended_before"]

log = get_logger(__name__)


class Stop:
    """Two events. `request` sets the first, and at the second call the other."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.at_once = asyncio.Event()
        self.reason = ""

    def request(self, reason: str) -> None:
        if self.requested.is_set():
            log.info("worker.stopping_at_once", reason=reason)
            self.at_once.set()
        else:
            self.reason = reason
            self.requested.set()

    def install(self) -> None:
        """TERM, INT and HUP (a terminal that is closed; not under nohup) request it.

        QUIT writes all stacks to stderr and goes on.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue
            loop.add_signal_handler(number, self.request, signal.Signals(number).name)
        faulthandler.register(signal.SIGQUIT, file=sys.stderr, all_threads=True)


async def ended_before(event: asyncio.Event | None, work: Awaitable[object], timeout_s: float | None = None) -> bool:
    """Whether the work ended before the event and within the time; else it is cancelled. Its exception stays in it."""
    working = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(event.wait()) if event is not None else None
    both = {working} if waiting is None else {working, waiting}
    try:
        await asyncio.wait(both, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        return working.done()
    finally:
        for each in both:
            each.cancel()
        await asyncio.wait(both)
        if not working.cancelled():
            working.exception()
