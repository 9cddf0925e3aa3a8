"""Leases: what is held stays ours, and after a lost lease nothing but an ack is said."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from memphis_worker import App, Backoff, Message, Reject, Retry
from memphis_worker.testing import TestWorker, VirtualLoop, running

FAST = Backoff(base_s=0.1, jitter=False)


def verbs(worker: TestWorker) -> list[str]:
    return [each.verb for each in worker.broker.answers("orders", "bill")]


def outcomes(worker: TestWorker) -> list[tuple[int, str]]:
    return [(each.sequence, each.outcome) for each in worker.outcomes]


async def test_a_handler_three_times_slower_than_the_ack_wait_runs_once() -> None:
    app, runs = App(), []

    @app.handler(station="orders", max_ack_time_ms=2000)
    async def bill(body: bytes) -> None:
        runs.append(body)
        await asyncio.sleep(6)

    async with running(app) as worker:
        await worker.produce("orders", b"x")
        await worker.drained()
    assert runs == [b"x"]
    assert set(verbs(worker)) == {"+WPI", "+ACK"}
    assert 6 <= verbs(worker).count("+WPI") <= 12


async def test_what_waits_for_a_slot_is_extended_too() -> None:
    app, runs = App(), []

    @app.handler(station="orders", concurrency=1, max_ack_time_ms=500, retry=FAST)
    async def bill(message: Message) -> None:
        runs.append((message.sequence, message.deliveries))
        # First fast enough for a window of more than one, then slow.
        await asyncio.sleep(0 if message.sequence < 200 else 2)

    async with running(app) as worker:
        for i in range(210):
            worker.broker.links[0].transport.publish(b"orders.final", b"%d" % i)
        await worker.drained()
    assert runs == [(i, 1) for i in range(1, 211)]


async def test_a_lost_lease_cancels_the_handler_and_says_nothing(logs: list[Any]) -> None:
    app, cancelled = App(), []
    loop = asyncio.get_running_loop()

    @app.handler(station="orders", max_ack_time_ms=1000)
    async def bill(message: Message) -> None:
        if message.deliveries > 1:
            return
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            cancelled.append(loop.time())
            raise

    async with running(app) as worker:
        await worker.produce("orders", b"x")
        await asyncio.sleep(0.01)
        worker.broker.stop()
        began = loop.time()
        await asyncio.sleep(3)
        assert 0.8 <= cancelled[0] - began <= 1.1
        worker.broker.start()
        await worker.drained()
    assert outcomes(worker) == [(1, "cancelled"), (1, "success")]
    assert set(verbs(worker)) <= {"+WPI", "+ACK"}
    assert worker.failures == []
    assert "message.lease_lost" in [each["event"] for each in logs]


@pytest.mark.parametrize("ends", ["fails", "rejects", "retries", "returns", "swallows"])
async def test_only_an_ack_may_follow_a_lost_lease(ends: str) -> None:
    app = App()
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)

    @app.handler(station="orders", max_ack_time_ms=1000)
    async def bill(message: Message) -> None:
        if message.deliveries > 1:
            return
        if ends == "swallows":
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                return
        loop.advance(1.5)  # a blocked loop: nobody could extend
        if ends == "fails":
            raise ValueError("x")
        if ends == "rejects":
            raise Reject("x")
        if ends == "retries":
            raise Retry(after_s=1)

    async with running(app) as worker:
        await worker.produce("orders", b"x")
        await asyncio.sleep(0.1)
        if ends == "swallows":
            worker.broker.stop()
            await asyncio.sleep(2)
            worker.broker.start()
        await worker.drained()
    first = [each.verb for each in worker.broker.answers("orders", "bill") if each.deliveries == 1]
    assert set(first) <= {"+ACK", "+WPI"}


async def test_a_message_whose_lease_ended_while_it_waited_is_not_run() -> None:
    app, runs = App(), []
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)

    @app.handler(station="orders", max_ack_time_ms=1000)
    async def bill(message: Message) -> None:
        runs.append((message.sequence, message.deliveries))
        if message.sequence == 1:
            loop.advance(1.2)

    async with running(app) as worker:
        for body in (b"blocks", b"waits"):
            worker.broker.links[0].transport.publish(b"orders.final", body)
        await worker.drained()
    assert (2, 1) not in runs
    assert (2, "released") in outcomes(worker)
    assert (2, "success") in outcomes(worker)
