"""The ways to the exit: groups that go, brokers that are silent, lifespans that hang, signals that come twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from memphis_worker import App
from memphis_worker.errors import AuthenticationFailed, Missing
from memphis_worker.options import WorkerOptions
from memphis_worker.testing import MemoryBroker, TestWorker, running


def sleeper(seconds: float, **options: Any) -> tuple[App, list[bytes]]:
    app, done = App(), []

    @app.handler(station="orders", group="bill", name="bill", **options)
    async def bill(body: bytes) -> None:
        await asyncio.sleep(seconds)
        done.append(body)

    return app, done


async def test_groups_that_go_together_do_not_cut_the_others_off() -> None:
    app, done = sleeper(5)
    for group in ("a", "b"):

        @app.handler(station="others", group=group, name=group)
        async def other(body: bytes) -> None: ...

    async with running(app) as worker:
        await worker.produce("orders", b"x")
        await asyncio.sleep(0.5)
        for group in ("a", "b"):
            worker.broker.delete_group("others", group)
        with pytest.raises(Missing):
            await worker.ended()
    assert done == [b"x"]


async def test_a_group_that_goes_during_the_stop_is_no_second_signal() -> None:
    app, done = sleeper(5)

    @app.handler(station="others", group="a", name="a")
    async def other(body: bytes) -> None: ...

    async with running(app) as worker:
        await worker.produce("orders", b"x")
        await asyncio.sleep(0.5)
        worker.stopper.request("SIGTERM")
        worker.broker.delete_group("others", "a")
        with contextlib.suppress(Missing):
            await worker.ended()
    assert done == [b"x"]


async def test_what_was_finished_without_a_connection_is_stranded_at_the_stop() -> None:
    app, done = sleeper(5)
    async with running(app) as worker:
        await worker.produce("orders", b"x")
        await asyncio.sleep(1)
        worker.broker.stop()
        await asyncio.sleep(1)
        assert await worker.stop() == 4
    assert done == [b"x"]


async def test_a_dead_letter_that_could_not_be_recorded_is_stranded_at_the_stop() -> None:
    app = App()

    @app.handler(station="orders", group="bill", max_msg_deliveries=1)
    async def bill(body: bytes) -> None:
        raise ValueError("x")

    async with running(app) as worker:
        worker.broker.station("memphis_worker_dead").mute = True
        await worker.produce("orders", b"x")
        await asyncio.sleep(1)
        assert await worker.stop() == 4


async def test_a_silent_broker_holds_the_stop_up_for_ten_seconds_at_most() -> None:
    app, _ = sleeper(1000)
    async with running(app, options=WorkerOptions(shutdown_timeout_s=5)) as worker:
        await worker.produce("orders", b"x")
        await asyncio.sleep(1)
        worker.broker.go_silent()
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await worker.stop() == 4
        assert loop.time() - began <= 15


async def test_a_second_signal_does_not_wait_for_a_silent_broker() -> None:
    app, _ = sleeper(1000)
    async with running(app) as worker:
        await worker.produce("orders", b"x")
        await asyncio.sleep(1)
        worker.broker.go_silent()
        loop = asyncio.get_running_loop()
        began = loop.time()
        worker.stopper.request("SIGTERM")
        worker.stopper.request("SIGTERM")
        assert await worker.ended() == 4
        assert loop.time() - began <= 5


class Hangs:
    def __init__(self, where: str) -> None:
        self.where = where

    @contextlib.asynccontextmanager
    async def __call__(self, app: App) -> AsyncIterator[None]:
        if self.where == "start":
            await asyncio.sleep(1e6)
        yield
        await asyncio.sleep(1e6)


@pytest.mark.parametrize("where", ["start", "end"])
async def test_a_lifespan_that_hangs_is_left_at_the_second_signal(where: str) -> None:
    app, _ = sleeper(0)
    app.lifespan = Hangs(where)
    worker = TestWorker(app, MemoryBroker(), WorkerOptions(), [])
    life = asyncio.create_task(worker.runner.run())
    await asyncio.sleep(1)
    worker.stopper.request("SIGTERM")
    await asyncio.sleep(1)
    worker.stopper.request("SIGTERM")
    async with asyncio.timeout(10):
        assert await life == 0


async def test_a_lifespan_does_not_see_what_the_broker_refuses_and_cannot_swallow_it() -> None:
    @contextlib.asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        with contextlib.suppress(Exception):
            yield

    app, _ = sleeper(0)
    app.lifespan = lifespan
    broker = MemoryBroker()

    async def refuse() -> Any:
        raise AuthenticationFailed("wrong token")

    broker.session = refuse  # type: ignore[method-assign]
    with pytest.raises(AuthenticationFailed):
        await TestWorker(app, broker, WorkerOptions(), []).runner.run()


async def test_a_lifespan_that_fails_at_its_end_does_not_hide_why_the_worker_stopped() -> None:
    @contextlib.asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        yield
        raise OSError("the database is gone")

    app, _ = sleeper(0)
    app.lifespan = lifespan
    async with running(app) as worker:
        worker.broker.delete_group("orders", "bill")
        with pytest.raises(Missing):
            await worker.ended()


async def test_a_lifespan_that_fails_at_its_start_ends_the_worker() -> None:
    @contextlib.asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        raise OSError("no database")
        yield

    app, _ = sleeper(0)
    app.lifespan = lifespan
    with pytest.raises(OSError, match="no database"):
        await TestWorker(app, MemoryBroker(), WorkerOptions(), []).runner.run()
