"""The credit of a pull stream: what it asks for, and that it never asks for more."""

from __future__ import annotations

import asyncio

import pytest
from pull_rig import GROUP, STATION, pulling, settle

from memphis_worker.testing import VirtualLoop


@pytest.mark.parametrize("concurrency", [1, 2, 3, 10])
async def test_held_and_asked_never_exceed_the_window(concurrency: int) -> None:
    async with pulling(concurrency=concurrency, stored=100, ack_wait_s=1) as rig:
        while len(rig.all) < 100:
            assert rig.stream.window.held + rig.stream.window.out <= rig.stream.window.size
            assert rig.credit <= concurrency + 1
            rig.ack(1)
            await asyncio.sleep(0.1)
        assert {message.sequence for message in rig.all} == set(range(1, 101))


async def test_a_window_of_one_works() -> None:
    async with pulling(concurrency=1, stored=10, ack_wait_s=1) as rig:
        for expected in range(1, 11):
            assert [message.sequence for message in rig.held] == [expected]
            assert rig.stream.window.out == 0
            rig.ack(1)
            await asyncio.sleep(0.3)


async def test_one_slow_message_never_idles_the_other_places() -> None:
    async with pulling(concurrency=3, stored=30, ack_wait_s=5) as rig:
        slow = rig.held.pop(0)
        for _ in range(27):
            rig.ack(1)
            await asyncio.sleep(0.5)
            slow.extend_lease()
        assert len(rig.all) == 30
        assert not slow.settled


async def test_the_next_pull_goes_out_when_half_is_asked_for_and_a_quarter_is_free() -> None:
    async with pulling(concurrency=8, ack_wait_s=1) as rig:
        assert [each["batch"] for each in rig.durable.requests] == [8]
        await rig.store(4)
        assert (rig.stream.window.held, rig.stream.window.out) == (4, 4)
        assert len(rig.durable.requests) == 1
        rig.ack(1)
        await settle()
        assert len(rig.durable.requests) == 1
        rig.ack(1)
        await settle()
        assert [each["batch"] for each in rig.durable.requests] == [8, 2]


async def test_a_fast_handler_gets_more_than_its_concurrency_asked_for() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    async with pulling(concurrency=1, stored=2000) as rig:
        while len(rig.all) < 2000:
            rig.ack(len(rig.held))
            loop.advance(0.001)
            await settle()
        assert 1 < rig.stream.window.size <= 1001
        assert len(rig.durable.requests) < 500


async def test_a_slow_handler_never_gets_a_window_that_outlasts_a_quarter_of_the_ack_wait() -> None:
    async with pulling(concurrency=1, stored=20, ack_wait_s=2) as rig:
        for _ in range(10):
            rig.ack(1)
            await asyncio.sleep(1)
        assert rig.stream.window.size == 1


async def test_no_pull_asks_for_more_than_the_batch_size() -> None:
    async with pulling(concurrency=10, batch_max=4, stored=20) as rig:
        assert max(each["batch"] for each in rig.durable.requests) == 4
        assert len(rig.all) == 10


async def test_the_messages_come_in_their_order() -> None:
    async with pulling(concurrency=7, stored=100) as rig:
        rig.auto = True
        rig.ack(7)
        await settle()
        await asyncio.sleep(1)
        assert [message.sequence for message in rig.all] == list(range(1, 101))


async def test_at_most_eight_requests_are_open() -> None:
    async with pulling(concurrency=64, batch_max=1) as rig:
        await asyncio.sleep(1)
        assert len(rig.durable.pulls) <= 8


# ------------------------------------------------------------------------------------ bytes


async def test_bytes_held_stop_the_pulls_until_half_is_free() -> None:
    size = 100_000
    async with pulling(concurrency=50, window_bytes=1_000_000, stored=50, data=b"x" * size) as rig:
        rig.broker.max_payload = size
        await asyncio.sleep(1)
        held = rig.stream.window.held
        assert 5 * size < held * size <= 500_000 + 2 * 1024 * 1024
        pulls = len(rig.durable.requests)
        while rig.stream._budget.held > 500_000:
            await settle()
            assert len(rig.durable.requests) == pulls
            rig.ack(1)
        await settle()
        assert len(rig.durable.requests) == pulls + 1


async def test_a_flood_of_large_messages_costs_few_pulls() -> None:
    async with pulling(concurrency=100, window_bytes=8 << 20, stored=60, data=b"x" * 1_000_000) as rig:
        peak = 0
        while len(rig.all) < 60:
            peak = max(peak, rig.stream._budget.held)
            rig.ack(1)
            await settle()
        assert len(rig.durable.requests) <= 20
        assert peak <= (8 << 20) // 2 + (8 << 20)


async def test_a_message_larger_than_any_pull_is_asked_for_alone_and_without_a_limit() -> None:
    async with pulling(concurrency=4, window_bytes=1024) as rig:
        await rig.store(1, b"x" * 5000)
        rig.ack(1)
        rig.broker.max_payload = 1000
        rig.broker.end_pulls(STATION, GROUP, "408 Request Timeout")
        await settle()
        assert rig.durable.requests[-1]["max_bytes"] == 2000
        rig.broker.max_payload = 1 << 20
        await rig.store(2, b"x" * 5000)
        rig.broker.max_payload = 1000
        for _ in range(2):
            await settle()
            assert "max_bytes" not in rig.durable.requests[-1]
            assert rig.durable.requests[-1]["batch"] == 1
            rig.ack(1)
            await settle()
        await rig.store(1, b"small")
        assert len(rig.all) == 4


async def test_an_oversize_message_behind_a_held_one_is_no_hot_loop() -> None:
    async with pulling(concurrency=4, window_bytes=100_000) as rig:
        await rig.store(1, b"held")
        assert len(rig.held) == 1
        rig.broker.max_payload = 30_000
        rig.broker.end_pulls(STATION, GROUP, "408 Request Timeout")
        await settle()
        before = len(rig.durable.requests)
        rig.broker.max_payload = 1 << 20
        rig.transport.publish(b"orders.final", b"x" * 200_000)
        rig.broker.max_payload = 30_000
        await asyncio.sleep(1)
        assert len(rig.durable.requests) - before < 12
        rig.ack(1)
        await asyncio.sleep(1)
        assert [len(message.data) for message in rig.all] == [4, 200_000]
