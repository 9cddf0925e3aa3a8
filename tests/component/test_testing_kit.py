from __future__ import annotations

import asyncio

import pytest

from memphis_worker import App, Backoff, MemphisWorkerError, Reject
from memphis_worker.client import jetstream
from memphis_worker.errors import Missing
from memphis_worker.runtime.binding import DEAD_STATION
from memphis_worker.testing import MemoryBroker, Stuck, VirtualLoop, run, running


def test_an_hour_takes_no_time() -> None:
    async def wait() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.sleep(3600)
        return loop.time() - began

    assert run(wait()) == pytest.approx(3600)


def test_a_wait_that_can_never_end_is_an_error() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Stuck):
        run(wait())


def test_timers_fire_in_their_order() -> None:
    async def wait() -> list[int]:
        seen: list[int] = []
        loop = asyncio.get_running_loop()
        for i in (3, 1, 2):
            loop.call_later(i, seen.append, i)
        await asyncio.sleep(5)
        return seen

    assert run(wait()) == [1, 2, 3]


async def test_code_may_take_virtual_time() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    began = loop.time()
    loop.advance(2.5)
    assert loop.time() - began == 2.5


async def test_an_app_runs_and_everything_is_acked() -> None:
    app, seen = App(), []

    @app.handler(station="orders")
    async def bill(body: dict) -> None:
        seen.append(body["id"])

    async with running(app) as worker:
        for i in range(50):
            await worker.produce("orders", {"id": i})
        await worker.drained()
        assert await worker.stop() == 0
    assert list(range(50)) == seen
    assert [each.outcome for each in worker.outcomes] == ["success"] * 50
    assert len(worker.broker.answers("orders", "bill", "+ACK")) == 50


async def test_drained_waits_for_retries_and_dead_letters() -> None:
    app = App()

    @app.handler(station="orders", retry=Backoff(base_s=60), max_msg_deliveries=3)
    async def bill(body: bytes) -> None:
        raise ValueError("no")

    async with running(app) as worker:
        await worker.produce("orders", b"\x00raw", headers={"trace": "7"})
        await worker.drained()
        (dead,) = worker.dead_letters()
    assert (dead.data, dead.reason, dead.deliveries, dead.headers["trace"]) == (b"\x00raw", "exhausted", 3, "7")
    assert [each.outcome for each in worker.outcomes] == ["retry", "retry", "dead_letter"]
    assert len(worker.failures) == 3


async def test_drained_says_what_is_left() -> None:
    app = App()

    @app.handler(station="orders")
    async def bill(body: bytes) -> None:
        await asyncio.sleep(100)

    async with running(app) as worker:
        await worker.produce("orders", b"x")
        with pytest.raises(AssertionError, match="orders/bill: 0 waiting, 1 in flight"):
            await worker.drained(timeout_s=5)


async def test_an_app_that_cannot_start_raises_at_the_start() -> None:
    app = App()

    @app.handler(station="orders", max_ack_time_ms=5000)
    async def bill(body: bytes) -> None: ...

    broker = MemoryBroker()
    async with running(app, broker=broker):
        pass
    broker.group("orders", "bill").ack_wait_s = 9
    with pytest.raises(MemphisWorkerError, match="its ack wait is 9 s"):
        async with running(app, broker=broker):
            pass


async def test_two_workers_share_a_group() -> None:
    app, other, seen = App(), App(), []

    async def bill(body: bytes) -> None:
        await asyncio.sleep(0.01)
        seen.append(body)

    for each in (app, other):
        each.handler(station="orders", concurrency=1)(bill)
    broker = MemoryBroker()
    async with running(app, broker=broker) as one, running(other, broker=broker) as two:
        for i in range(100):
            await one.produce("orders", b"%d" % i)
        await one.drained()
    assert 100 == len(set(seen)) == len(seen)
    assert one.outcomes
    assert two.outcomes


async def test_a_message_id_is_stored_once_within_the_window() -> None:
    app = App()

    @app.handler(station="orders")
    async def bill(body: bytes) -> None:
        raise Reject("no")

    async with running(app) as worker:
        for _ in range(3):
            await worker.produce("orders", b"x", msg_id="1")
        await worker.drained()
        assert worker.broker.bodies("orders") == [b"x"]
        assert [each.data for each in worker.dead_letters()] == [b"x"]


async def test_the_client_reads_streams_groups_and_messages() -> None:
    app = App()

    @app.handler(station="orders")
    async def bill(body: bytes) -> None:
        await asyncio.sleep(5)

    async with running(app) as worker:
        transport = worker.broker.transport()
        await worker.produce("orders", b"x", headers={"a": "b"})
        await asyncio.sleep(2)
        lag = await jetstream.group_lag(transport, "orders", "bill")
        assert (lag.waiting, lag.in_flight, lag.oldest_age_s) == (0, 1, pytest.approx(2, abs=0.01))
        assert [each.name for each in await jetstream.streams(transport)] == [DEAD_STATION, "orders"]
        assert [each.name for each in await jetstream.consumers(transport, "orders")] == ["bill"]
        assert (await jetstream.stream_info(transport, "orders")).messages == 1
        stored = await jetstream.message_at(transport, "orders", 1)
        assert (stored.data, b"a: b" in stored.headers) == (b"x", True)
        await jetstream.delete_message(transport, "orders", 1)
        with pytest.raises(Missing, match="message 1 of station 'orders'"):
            await jetstream.message_at(transport, "orders", 1)
        for missing in ("nowhere", "orders"):
            with pytest.raises(Missing):
                await jetstream.consumer_info(transport, missing, "nobody")
        await transport.close()


def test_an_app_runs_on_an_ordinary_loop_too() -> None:
    app, seen = App(), []

    @app.handler(station="orders")
    async def bill(body: dict) -> None:
        seen.append(body)

    async def use() -> None:
        async with running(app) as worker:
            await worker.produce("orders", {"id": 1})
            await worker.drained()
            await worker.stop(at_once=True)

    asyncio.run(use())
    assert seen == [{"id": 1}]


def test_the_fixture_is_an_empty_broker(memphis_broker: MemoryBroker) -> None:
    assert memphis_broker.streams == {}
