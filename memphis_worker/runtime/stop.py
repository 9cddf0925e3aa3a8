"""The wish to stop: once to drain, twice to hand back at once; and the signals that say so."""

from __future__ import annotations

import asyncio
import faulthandler
import signal
import sys

import structlog

__all__ = ["Stop"]

log = structlog.get_logger(__name__)


class Stop:
    """Two events. `request` sets the first, and at the second call the other."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.at_once = asyncio.Event()
        self.reason = ""
        self._installed: list[int] = []

    def request(self, reason: str) -> None:
        if self.requested.is_set():
            log.info("worker.stopping_at_once", reason=reason)
            self.at_once.set()
        else:
            self.reason = reason
            self.requested.set()

    def install(self) -> None:
        """TERM and INT request it; QUIT writes all stacks to stderr and goes on."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.request, signal.Signals(number).name)
            self._installed.append(number)
        faulthandler.register(signal.SIGQUIT, file=sys.stderr, all_threads=True)

    def uninstall(self) -> None:
        loop = asyncio.get_running_loop()
        while self._installed:
            loop.remove_signal_handler(self._installed.pop())
        faulthandler.unregister(signal.SIGQUIT)
