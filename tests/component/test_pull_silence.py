"""A server that says nothing: missed heartbeats, reconnects, deadlines; and how a stream stops."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pull_rig import GROUP, STATION, Rig, pulling, settle

from memphis_worker.client.pull import PullStream
from memphis_worker.errors import BrokerRefused, Missing
from memphis_worker.testing import MemoryBroker


async def test_heartbeats_keep_an_idle_stream_quiet(logs: list[Any]) -> None:
    async with pulling() as rig:
        await asyncio.sleep(300)
        assert rig.stream.epochs == 1
        assert len(rig.durable.requests) <= 32
    assert logs == []


async def test_the_first_missed_heartbeat_opens_a_fresh_inbox_and_pulls(logs: list[Any]) -> None:
    async with pulling() as rig:
        rig.durable.mute = True
        rig.durable.end_pulls("")
        await asyncio.sleep(2 * rig.stream.heartbeat_s + rig.stream.heartbeat_s)
        assert rig.stream.epochs == 2
        assert len(rig.durable.requests) == 2
        rig.durable.mute = False
        await asyncio.sleep(2 * rig.stream.heartbeat_s)
        await rig.store(1)
        assert len(rig.all) == 1
        assert not rig.stream.stalled


async def test_the_second_in_a_row_asks_whether_the_group_is_there() -> None:
    async with pulling() as rig:
        rig.durable.end_pulls("")
        rig.broker.streams[STATION].groups[GROUP].mute = True
        await asyncio.sleep(5)
        assert rig.stream.error is None
        rig.broker.streams[STATION].groups.pop(GROUP)
        await asyncio.sleep(4)
        assert isinstance(rig.stream.error, Missing)


async def test_the_third_in_a_row_is_an_alarm_and_it_ends_with_the_first_frame(logs: list[Any]) -> None:
    async with pulling() as rig:
        rig.durable.mute = True
        rig.durable.end_pulls("")
        await asyncio.sleep(3 * 2 * rig.stream.heartbeat_s + 3)
        assert rig.stream.stalled
        assert rig.transport.epoch == 1, "one sick group must not disturb the others"
        rig.durable.mute = False
        await asyncio.sleep(3 * rig.stream.heartbeat_s)
        await rig.store(1)
        await asyncio.sleep(rig.stream.heartbeat_s)
        assert not rig.stream.stalled
    assert "consumer.stalled" in [each["event"] for each in logs]


async def test_a_connection_that_is_silent_as_a_whole_is_replaced() -> None:
    async with pulling() as rig:
        rig.broker.go_silent()
        await asyncio.sleep(4 * rig.stream.heartbeat_s + 5 + 2)
        assert rig.transport.epoch == 2
        await rig.store(1)
        await asyncio.sleep(rig.durable.ack_wait_s)
        assert len(rig.all) == 1


async def test_a_loop_that_was_blocked_does_not_blame_the_server() -> None:
    async with pulling() as rig:
        loop: Any = asyncio.get_running_loop()
        await asyncio.sleep(0.5)
        loop.advance(30)
        await settle()
        assert rig.stream.epochs == 1


async def test_after_a_cut_old_requests_cannot_double_the_credit() -> None:
    async with pulling(concurrency=4, ack_wait_s=300) as rig:
        for _ in range(5):
            rig.broker.cut()
            await asyncio.sleep(0.2)
        assert rig.stream.epochs == 6
        await rig.store(50)
        assert rig.stream.window.held <= rig.stream.window.size
        assert len(rig.all) == 4


async def test_a_stream_that_kept_its_inbox_would_hold_twice_its_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: with it the assertion of the test above must fail."""

    async def keep(stream: PullStream) -> None:
        stream._connection = stream.transport.epoch
        if stream._subscription is None:
            await open_epoch(stream)
        stream.window.forget()
        stream._pull()

    open_epoch = PullStream._open_epoch
    monkeypatch.setattr(PullStream, "_open_epoch", keep)
    async with pulling(concurrency=4, ack_wait_s=300) as rig:
        rig.broker.cut()
        await asyncio.sleep(0.2)
        await rig.store(50)
        assert rig.stream.window.held > rig.stream.window.size


async def test_a_reconnect_is_followed_by_a_pull_at_once() -> None:
    async with pulling() as rig:
        before = len(rig.durable.requests)
        rig.broker.restart()
        await asyncio.sleep(rig.transport.reconnect_s + 0.01)
        assert len(rig.durable.requests) == before + 1
        await rig.store(1)
        assert len(rig.all) == 1


async def test_a_reconnect_while_the_group_is_looked_up_is_followed_by_a_pull_within_a_second() -> None:
    async with pulling() as rig:
        rig.broker.go_silent()
        while rig.stream._missed < 2:
            await asyncio.sleep(0.05)
        await settle()
        rig.broker.restart()
        await asyncio.sleep(1)
        assert rig.durable.asked > 0
        await asyncio.sleep(10)
        assert rig.transport.epoch == 2, "the old connection's silence must not end the new one"


async def test_nothing_is_asked_for_while_disconnected() -> None:
    async with pulling() as rig:
        rig.broker.stop()
        before = len(rig.durable.requests)
        await asyncio.sleep(100)
        assert len(rig.durable.requests) == before
        assert (rig.stream.window.out, rig.stream.epochs, rig.stream.stalled) == (0, 1, False)
        rig.broker.start()
        await asyncio.sleep(1)
        assert rig.durable.asked == rig.stream.window.out == 4


async def test_messages_that_were_held_over_a_reconnect_stay_in_the_window() -> None:
    async with pulling(concurrency=4, stored=4) as rig:
        rig.broker.cut()
        await asyncio.sleep(1)
        assert (rig.stream.window.held, rig.stream.window.out) == (4, 0)
        rig.ack(2)
        await settle()
        assert rig.stream.window.held == 2
        assert rig.stream.window.out == rig.durable.asked == rig.stream.window.size - 2


async def test_a_server_without_heartbeats_is_given_the_time_of_the_pull() -> None:
    async with pulling(broker=MemoryBroker(server_version=(2, 8, 4))) as rig:
        await asyncio.sleep(100)
        assert rig.stream.epochs == 1
        assert "idle_heartbeat" not in rig.durable.requests[0]
        rig.durable.mute = True
        rig.durable.end_pulls("")
        await asyncio.sleep(25)
        assert rig.stream.epochs >= 2


# ------------------------------------------------------------------------------------ stopping


async def test_a_stop_before_the_first_turn_is_not_erased() -> None:
    async with pulling(start=False, stored=0) as rig:
        rig.stream.stop_asking()
        await asyncio.sleep(1)
        assert rig.durable.requests == []


async def test_what_was_asked_for_still_arrives_after_the_stop() -> None:
    async with pulling(concurrency=4) as rig:
        rig.stream.stop_asking()
        await rig.store(2)
        assert len(rig.held) == 2
        rig.ack(2)
        await asyncio.sleep(30)
        assert len(rig.durable.requests) == 1


async def arrival_time(rig: Rig) -> float:
    began = asyncio.get_running_loop().time()
    rig.stream.stop_asking()
    await rig.stream.arrived()
    return asyncio.get_running_loop().time() - began


async def test_an_idle_stream_has_arrived_after_a_quarter_of_a_second() -> None:
    async with pulling() as rig:
        assert await arrival_time(rig) == pytest.approx(0.25)


async def test_a_stream_with_nothing_open_has_arrived_at_once() -> None:
    async with pulling(concurrency=2, stored=2) as rig:
        assert await arrival_time(rig) == 0


async def test_arriving_ends_when_the_last_request_is_filled() -> None:
    async with pulling(concurrency=4) as rig:
        asyncio.get_running_loop().call_later(0.2, rig.transport.publish, b"orders.final", b"x")
        for i in range(3):
            asyncio.get_running_loop().call_later(0.3 + i / 100, rig.transport.publish, b"orders.final", b"x")
        assert await arrival_time(rig) == pytest.approx(0.32)


async def test_arriving_takes_a_second_at_most() -> None:
    async with pulling(concurrency=100) as rig:
        for i in range(30):
            asyncio.get_running_loop().call_later(i / 10, rig.transport.publish, b"orders.final", b"x")
        assert await arrival_time(rig) == pytest.approx(1)


async def test_a_drain_brings_what_is_on_the_wire() -> None:
    broker = MemoryBroker(latency_s=0.1)
    async with pulling(concurrency=10, broker=broker) as rig:
        await asyncio.sleep(0.5)
        for _ in range(5):
            rig.transport.publish(b"orders.final", b"x")
        await asyncio.sleep(0.15)
        assert rig.all == []
        rig.stream.stop_asking()
        await rig.stream.drain(5)
        assert len(rig.all) == 5
        assert len(rig.durable.flying) == 5


async def test_a_drain_while_disconnected_returns() -> None:
    async with pulling() as rig:
        rig.broker.stop()
        rig.stream.stop_asking()
        await rig.stream.arrived()
        await rig.stream.drain(5)


async def test_a_subscription_that_is_refused_ends_the_run_with_its_reason() -> None:
    broker = MemoryBroker()
    broker.denied = "_INBOX"
    async with pulling(start=False, broker=broker) as rig:
        with pytest.raises(BrokerRefused, match="permissions violation"):
            await rig.stream.run()
        broker.denied = ""
        await settle()
