"""A short visit to the broker, for the commands that give up when it does not answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from memphis_worker.bootstrap import open_session
from memphis_worker.cli.loop import run_loop
from memphis_worker.embedded import EmbeddedBroker
from memphis_worker.embedded.thread import BrokerThread
from memphis_worker.errors import ConnectionClosed, Disconnected, InvalidOption, NotReachable, RequestTimeout
from memphis_worker.options import ConnectOptions
from memphis_worker.runtime.runner import Session

__all__ = ["broker", "visit"]

T = TypeVar("T")


@contextlib.contextmanager
def broker(options: ConnectOptions) -> Iterator[ConnectOptions]:
    """The options of a broker that exists: for `embedded:` one is started, on a thread of its own, and ended after."""
    if options.kind != "embedded":
        yield options
        return
    with BrokerThread(EmbeddedBroker(directory=options.directory)) as url:
        yield ConnectOptions.from_url(url, env={})


def visit(options: ConnectOptions, timeout_s: float, work: Callable[[Session], Awaitable[T]]) -> T:
    """Signs in, does the work, leaves. Raises NotReachable when the broker is silent for `timeout_s`."""
    if options.kind == "embedded" and options.directory is None:
        raise InvalidOption(
            "--url embedded: is a broker that would be gone with this command; "
            "use the one of `memphis-worker dev`, or embedded:///folder"
        )
    with broker(options) as found:
        there = replace(found, timeout_ms=max(1, int(timeout_s * 1000)), reconnect=False)
        return run_loop(_visit(there, timeout_s, work))


async def _visit(options: ConnectOptions, timeout_s: float, work: Callable[[Session], Awaitable[T]]) -> T:
    try:
        async with _signed_in(options, timeout_s) as session:
            return await work(session)
    except (RequestTimeout, Disconnected, ConnectionClosed) as exc:
        raise NotReachable(str(exc)) from exc


@contextlib.asynccontextmanager
async def _signed_in(options: ConnectOptions, timeout_s: float) -> AsyncIterator[Session]:
    try:
        async with asyncio.timeout(timeout_s):
            session = await open_session(options)
    except TimeoutError:
        raise NotReachable(f"{options.host} did not answer within {timeout_s:g} s") from None
    try:
        yield session
    finally:
        await session.close()
