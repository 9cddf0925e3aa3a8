"""An event loop for one coroutine, left without waiting for anybody's threads."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Coroutine
from typing import TypeVar

__all__ = ["exit_within", "run_loop"]

T = TypeVar("T")


def run_loop(work: Coroutine[object, object, T]) -> T:
    """As `asyncio.run`, but it joins no executor thread: a handler that blocks one must not hold up the exit."""
    loop = asyncio.new_event_loop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(work)
    finally:
        try:
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.wait(left, timeout=1))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def exit_within(seconds: float, code: int) -> None:
    """Ends the process with this code if its normal end takes longer, because a thread that is no daemon goes on."""
    if all(thread.daemon or thread is threading.current_thread() for thread in threading.enumerate()):
        return

    def end() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
