"""Handlers that do what nobody expects: each costs its own message an attempt, and nothing else anything."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from memphis_worker import App, Backoff, Message
from memphis_worker.errors import InvalidHandler
from memphis_worker.options import WorkerOptions
from memphis_worker.testing import TestWorker, running

FAST = Backoff(base_s=0.1, jitter=False)


def held(worker: TestWorker) -> int:
    return worker.runner.streams[0].window.held


def reasons(worker: TestWorker) -> list[str]:
    return [each.headers["memphis-worker-error"] for each in worker.dead_letters()]


async def test_a_decorated_async_handler_runs_on_the_loop() -> None:
    app, ran = App(), []

    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    @app.handler(station="orders")
    @logged
    async def bill(body: bytes) -> None:
        await asyncio.sleep(0)
        ran.append(body)

    async with running(app) as worker:
        await worker.produce("orders", b"x")
        await worker.drained()
    assert ran == [b"x"]


async def test_a_coroutine_that_nobody_awaits_is_a_failure_and_not_an_ack() -> None:
    app, ran = App(), []

    @app.middleware
    async def forgetful(message: Message, call_next: Callable[[Message], Any]) -> object:
        return call_next(message)

    @app.handler(station="orders", max_msg_deliveries=1)
    async def bill(body: bytes) -> None:
        ran.append(body)

    async with running(app) as worker:
        await worker.produce("orders", b"x")
        await worker.drained()
        (reason,) = reasons(worker)
    assert "await" in reason
    assert ran == []


async def test_a_generator_behind_a_decorator_is_a_failure_and_not_an_ack() -> None:
    app = App()

    def bare(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(body: bytes) -> Any:
            return function(body)

        return wrapper

    @app.handler(station="orders", max_msg_deliveries=1)
    @bare
    def bill(body: bytes) -> Any:
        yield 1

    async with running(app) as worker:
        await worker.produce("orders", b"x")
        await worker.drained()
        (reason,) = reasons(worker)
    assert "yield" in reason


def test_a_generator_behind_a_wrapping_decorator_is_refused() -> None:
    def wrapping(function: Callable[..., Any]) -> Callable[..., Any]:
        return functools.wraps(function)(lambda body: function(body))

    with pytest.raises(InvalidHandler, match="yield"):

        @App().handler(station="orders")
        @wrapping
        def bill(body: bytes) -> Any:
            yield 1


class RudeText(Exception):
    def __str__(self) -> str:
        raise asyncio.CancelledError


@pytest.mark.parametrize("error", [GeneratorExit, KeyboardInterrupt, SystemExit, StopIteration, RudeText])
@pytest.mark.parametrize("kind", ["at once", "suspended", "thread"])
async def test_any_exception_is_a_failure_of_its_message_alone(error: type[BaseException], kind: str) -> None:
    app, ran = App(), []

    def fail(body: bytes) -> None:
        if body == b"bad":
            raise error
        ran.append(body)

    async def bill(body: bytes) -> None:
        if kind == "suspended":
            await asyncio.sleep(0.01)
        fail(body)

    app.handler(station="orders", group="bill", concurrency=1, max_msg_deliveries=2, retry=FAST)(
        fail if kind == "thread" else bill
    )
    async with running(app) as worker:
        await worker.produce("orders", b"bad")
        await worker.produce("orders", b"good")
        await worker.drained()
        assert [each.data for each in worker.dead_letters()] == [b"bad"]
        assert held(worker) == 0
    assert ran == [b"good"]


async def test_a_handler_that_acks_early_is_left_to_finish() -> None:
    app, done = App(), []

    @app.handler(station="orders", max_ack_time_ms=2000)
    async def bill(message: Message) -> None:
        await message.ack()
        await asyncio.sleep(10)
        done.append(message.data)

    async with running(app) as worker:
        await worker.produce("orders", b"x")
        await asyncio.sleep(30)
        assert done == [b"x"]
        assert [each.outcome for each in worker.outcomes] == ["success"]


async def test_a_thread_that_cannot_be_started_costs_one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    app, ran, start, refusals = App(), [], threading.Thread.start, [1]

    def refused_once(thread: threading.Thread) -> None:
        if thread.name.startswith("handler-") and refusals:
            refusals.pop()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refused_once)

    @app.handler(station="orders", concurrency=1, retry=FAST)
    def bill(body: bytes) -> None:
        ran.append(body)

    async with running(app, options=WorkerOptions(threads=1)) as worker:
        await worker.produce("orders", b"x")
        await worker.drained()
    assert ran == [b"x"]
    assert [each.outcome for each in worker.outcomes] == ["retry", "success"]


class AtOnce:
    """How many run now, and the most that ever did."""

    def __init__(self) -> None:
        self.now = self.most = 0

    @contextlib.contextmanager
    def one(self) -> Any:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            yield
        finally:
            self.now -= 1


async def test_a_thread_that_a_middleware_gives_up_on_keeps_its_message_until_it_ends() -> None:
    app, at_once, go_on = App(), AtOnce(), threading.Event()

    @app.middleware
    async def limited(message: Message, call_next: Callable[[Message], Any]) -> object:
        async with asyncio.timeout(1):
            return await call_next(message)

    @app.handler(station="orders", concurrency=4, retry=FAST, max_msg_deliveries=2)
    def bill(body: bytes) -> None:
        with at_once.one():
            go_on.wait(20)

    async with running(app) as worker:
        await worker.produce("orders", b"x")
        await asyncio.sleep(5)
        assert (at_once.now, worker.outcomes) == (1, [])
        go_on.set()
        await worker.drained()
        assert at_once.most == 1


@pytest.mark.parametrize("kind", ["thread", "swallows"])
async def test_a_message_that_comes_back_while_it_still_runs_here_is_not_run_beside_itself(kind: str) -> None:
    """The line is down for longer than the lease, and what runs cannot be stopped: the copy gives it a new lease."""
    app, at_once, go_on = App(), AtOnce(), threading.Event()

    def in_a_thread(body: bytes) -> None:
        with at_once.one():
            go_on.wait(20)

    async def swallows(body: bytes) -> None:
        with at_once.one():
            for _ in range(2):
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(15)

    app.handler(station="orders", group="bill", concurrency=4, max_ack_time_ms=2000)(
        in_a_thread if kind == "thread" else swallows
    )
    async with running(app) as worker:
        await worker.produce("orders", b"x")
        await asyncio.sleep(0.5)
        worker.broker.stop()
        await asyncio.sleep(4)
        worker.broker.start()
        await asyncio.sleep(5)
        assert at_once.most == 1
        go_on.set()
        await worker.drained()
        assert at_once.most == 1
        assert [each.outcome for each in worker.outcomes].count("success") == 1
        assert held(worker) == 0


async def test_an_answer_that_makes_no_sense_leaves_no_dead_letter_behind() -> None:
    """The message stays with its group, and its place in the window is free again."""
    app = App()

    @app.handler(station="orders", concurrency=1, max_msg_deliveries=1, max_ack_time_ms=2000)
    async def bill(body: bytes) -> None:
        raise ValueError("x")

    async with running(app) as worker:

        async def record(*args: object) -> None:
            raise AttributeError("no such thing")

        assert worker.runner.executor is not None
        worker.runner.executor._settlement._record = record
        await worker.produce("orders", b"x")
        await asyncio.sleep(1)
        assert [each.outcome for each in worker.outcomes] == ["retry"]
        assert held(worker) == 0


async def test_a_resent_message_has_no_lease_to_lose() -> None:
    app, ran = App(), []

    @app.handler(station="orders", concurrency=1, max_ack_time_ms=2000)
    async def bill(body: bytes) -> None:
        asyncio.get_running_loop().advance(10)  # type: ignore[attr-defined]  # a blocked loop
        ran.append(body)

    async with running(app) as worker:
        for body in (b"one", b"two"):
            worker.broker.resend("orders", "bill", body)
        await asyncio.sleep(20)
    assert ran == [b"one", b"two"]


async def test_a_context_variable_does_not_reach_another_handler() -> None:
    app, seen = App(), []
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")

    @app.handler(station="orders", group="sets", concurrency=1)
    async def sets(body: bytes) -> None:
        tenant.set(body.decode())
        await asyncio.sleep(0.001)

    @app.handler(station="orders", group="reads", concurrency=1)
    async def reads(body: bytes) -> None:
        await asyncio.sleep(0.001)
        seen.append(tenant.get())

    async with running(app, options=WorkerOptions(concurrency=1)) as worker:
        for number in range(5):
            await worker.produce("orders", b"tenant %d" % number)
        await worker.drained()
    assert seen == ["nobody"] * 5
