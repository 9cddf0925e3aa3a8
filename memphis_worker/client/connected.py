"""Waiting for a connection that reconnects by itself."""

from __future__ import annotations

import asyncio

from memphis_worker.client.transport import Transport
from memphis_worker.errors import ConnectionClosed, Disconnected

__all__ = ["until_connected"]


async def until_connected(transport: Transport, timeout_s: float) -> None:
    """Returns at once while connected. Raises ConnectionClosed, or Disconnected after the time."""
    if transport.connected:
        return
    changed = asyncio.Event()
    unwatch = transport.on_change(changed.set)
    try:
        async with asyncio.timeout(timeout_s):
            while not transport.connected:
                if transport.closed:
                    raise ConnectionClosed("the connection to the broker was closed or given up; connect again")
                await changed.wait()
                changed.clear()
    except TimeoutError:
        raise Disconnected(f"the connection to the broker is down since {timeout_s:g} s or more; try again") from None
    finally:
        unwatch()
