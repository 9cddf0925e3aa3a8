"""Connecting with nats-py: one attempt on each server, and an error of ours where nobody lets us in."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any

from nats.aio.client import Client
from nats.errors import Error as NatsError

from memphis_worker.client.control.plane import DataPlane
from memphis_worker.errors import AuthenticationFailed, BrokerRefused, MemphisWorkerError, NotReachable
from memphis_worker.log import get_logger

__all__ = ["PENDING_BYTES", "dial"]

log = get_logger(__name__)

PENDING_BYTES = 8 * 1024 * 1024
PING_INTERVAL_S = 10
MAX_PINGS = 2
CONNECT_TIMEOUT_S = 3.0
#: What no second attempt changes, in the words of nats-server and nats-py. Everything else may pass: a broker that
#: starts, stops or is full says so in many ways, or hangs up in the middle of a line.
_FOR_GOOD = ("tls required", "no ssl context", "secure connection", "permissions violation", "connect url")


async def dial(
    nc: Client,
    plane: DataPlane,
    *,
    on_change: Callable[[], None],
    reconnect: bool,
    max_reconnect: int,
    interval_s: float,
    timeout_s: float,
) -> None:
    """Connects `nc`, or closes it and raises NotReachable, AuthenticationFailed, BrokerRefused.

    Ends when all servers have failed (nats-py alone would go on for ever). A cancelled call leaves nothing behind
    either. `on_change` is called for what happens to the connection later; it must not raise.
    """
    failed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
    failures = 0

    async def on_error(exc: Exception) -> None:
        nonlocal failures
        if nc.is_connected:
            log.warning("broker.error", error=type(exc).__name__, text=str(exc)[:200])
        elif not connecting.done():
            failures += 1
            if failures >= len(plane.servers) and not failed.done():
                failed.set_result(exc)

    async def changed() -> None:
        on_change()

    def next_server(servers: list[Any], info: dict[str, Any]) -> tuple[None, float]:
        return None, interval_s * random.uniform(0.5, 1.5)  # noqa: S311

    connecting = asyncio.create_task(
        nc.connect(
            servers=list(plane.servers),
            name=plane.name,
            token=plane.token,
            user=plane.user,
            password=plane.password,
            error_cb=on_error,
            disconnected_cb=changed,
            reconnected_cb=changed,
            closed_cb=changed,
            allow_reconnect=reconnect,
            max_reconnect_attempts=max_reconnect,
            reconnect_to_server_handler=next_server,
            reconnect_time_wait=0.05,  # type: ignore[arg-type]
            connect_timeout=CONNECT_TIMEOUT_S,  # type: ignore[arg-type]
            ping_interval=PING_INTERVAL_S,
            max_outstanding_pings=MAX_PINGS,
            pending_size=PENDING_BYTES,
        ),
        name="nats.connect",
    )
    first: set[asyncio.Future[Any]] = {connecting, failed}
    connected = False
    try:
        await asyncio.wait(first, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        # nats-py takes a server that hangs up after the greeting for one that it is connecting to.
        connected = _error(connecting) is None and nc.is_connected
    finally:
        if not connected:
            await _abandon(connecting, nc)
    if not connected:
        error = failed.result() if failed.done() else _error(connecting)
        raise _connect_error(error or NatsError("it hung up"), ", ".join(plane.servers))


def _error(connecting: asyncio.Task[None]) -> BaseException | None:
    """Looking at it also keeps asyncio from logging it as never retrieved."""
    if connecting.done() and not connecting.cancelled():
        return connecting.exception()
    return TimeoutError("no answer")


async def _abandon(connecting: asyncio.Task[None], nc: Client) -> None:
    try:
        for _ in range(10):
            # Again and again: before Python 3.12 a wait_for that has just got its result swallows a cancel.
            connecting.cancel()
            if (await asyncio.wait({connecting}, timeout=0.1))[0]:
                break
    finally:
        _error(connecting)
        with contextlib.suppress(Exception):
            await nc.close()


def _connect_error(error: BaseException, where: str) -> MemphisWorkerError:
    text = " ".join(str(error).split()) or type(error).__name__
    lowered = text.lower()
    if "authorization" in lowered:
        return AuthenticationFailed(
            f"{where}: the broker refused the sign-in to its data port ({text}); check the token"
        )
    if any(words in lowered for words in _FOR_GOOD):
        return BrokerRefused(f"{where}: {text}")
    if isinstance(error, NatsError) and not isinstance(error, OSError | TimeoutError):
        return NotReachable(f"{where}: the broker ended the sign-in ({text}); it is starting, stopping or full")
    return NotReachable(f"{where}: nobody answers there ({text}); check the host and data_port, or start the broker")
