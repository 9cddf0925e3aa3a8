"""Every row of the status table, and what is not a status although it looks like one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pull_rig import GROUP, STATION, pulling, settle

from memphis_worker.errors import BrokerRefused, Missing
from memphis_worker.testing import MemoryBroker


@pytest.mark.parametrize("status", ["404 No Messages", "408 Request Timeout", "409 Batch Completed"])
async def test_an_ended_pull_is_followed_by_the_next_at_once(status: str, logs: list[Any]) -> None:
    async with pulling() as rig:
        before = len(rig.durable.requests)
        rig.broker.end_pulls(STATION, GROUP, f"{status}\r\nNats-Pending-Messages: 4\r\nNats-Pending-Bytes: 0")
        await settle()
        assert len(rig.durable.requests) == before + 1
        assert rig.stream.window.out == rig.durable.asked == 4
    assert logs == []


async def test_an_expired_pull_gives_back_what_it_did_not_bring() -> None:
    async with pulling(concurrency=8, stored=3) as rig:
        await asyncio.sleep(rig.stream.expires_s + 0.01)
        assert (rig.stream.window.held, rig.stream.window.out) == (3, 5)
        assert rig.durable.asked == 5


@pytest.mark.parametrize("completed", [True, False])
async def test_a_filled_pull_ends_with_a_status_or_in_silence(completed: bool) -> None:
    async with pulling(concurrency=4) as rig:
        rig.durable.says_completed = completed
        rig.auto = True
        await rig.store(50)
        await asyncio.sleep(0.01)
        assert len(rig.all) == 50
        assert rig.stream.window.out == rig.durable.asked


async def test_two_pulls_that_fill_in_silence_leave_no_credit_behind() -> None:
    async with pulling(concurrency=8, ack_wait_s=1) as rig:
        rig.durable.says_completed = False
        await rig.store(4)
        rig.ack(4)
        await settle()
        assert len(rig.durable.requests) == 2
        await rig.store(8)
        assert (len(rig.all), rig.stream.window.out, rig.stream.window.live) == (12, 0, {})
        rig.ack(8)
        await settle()
        assert rig.stream.window.out == rig.durable.asked > 0


async def test_a_new_leader_is_asked_at_once_and_never_for_more_than_the_window() -> None:
    async with pulling(concurrency=8, ack_wait_s=1) as rig:
        await rig.store(4)
        rig.ack(4)
        await settle()
        assert len(rig.durable.pulls) == 2
        before = len(rig.durable.requests)
        rig.broker.end_pulls(STATION, GROUP, "409 Leadership Change")
        await settle()
        assert len(rig.durable.requests) > before
        assert rig.durable.asked <= rig.stream.window.size
        assert rig.stream.window.out == rig.durable.asked


@pytest.mark.parametrize("status", ["409 Leadership Change", "503", "500 Whatever"])
async def test_a_pull_that_was_on_its_way_when_another_was_refused_keeps_its_credit(status: str) -> None:
    async with pulling(concurrency=8, ack_wait_s=1, broker=MemoryBroker(latency_s=0.1)) as rig:
        await asyncio.sleep(0.11)
        await rig.store(4)
        await asyncio.sleep(0.21)
        rig.broker.end_pulls(STATION, GROUP, status)
        rig.ack(4)
        await asyncio.sleep(0.11)
        assert rig.durable.requests[1]["batch"] == 4
        await asyncio.sleep(0.15)
        assert 4 <= rig.durable.asked <= rig.stream.window.out <= rig.stream.window.size


async def test_a_server_that_stops_is_asked_again_a_little_later() -> None:
    async with pulling() as rig:
        before = len(rig.durable.requests)
        rig.broker.end_pulls(STATION, GROUP, "409 Server Shutdown\r\nNats-Pending-Messages: 4")
        await settle()
        assert len(rig.durable.requests) == before
        await asyncio.sleep(0.4)
        assert len(rig.durable.requests) == before + 1


async def test_no_leader_is_asked_again_with_growing_pauses(logs: list[Any]) -> None:
    async with pulling() as rig:
        rig.durable.refusal = "503"
        rig.broker.end_pulls(STATION, GROUP, "408 Request Timeout")
        await asyncio.sleep(20)
        assert 5 <= len(rig.durable.requests) <= 20
        rig.durable.refusal = ""
        await rig.store(1)
        await asyncio.sleep(7.6)
        assert len(rig.all) == 1
        assert rig.stream.error is None
    assert [each["error"] for each in logs] == ["503"]


async def test_a_group_that_is_gone_while_nobody_answers_ends_the_stream() -> None:
    async with pulling() as rig:
        rig.durable.mute = True
        rig.durable.end_pulls("503")
        rig.broker.streams[STATION].groups.pop(GROUP).close()
        await asyncio.sleep(45)
        assert isinstance(rig.stream.error, Missing)


async def test_too_many_waiting_pulls_leave_one_and_a_pause(logs: list[Any]) -> None:
    async with pulling(broker=MemoryBroker(server_version=(2, 10, 7))) as rig:
        rig.durable.max_waiting = 0
        rig.broker.end_pulls(STATION, GROUP, "408 Request Timeout")
        await asyncio.sleep(3)
        assert len(rig.durable.requests) < 12
        rig.durable.max_waiting = 1
        await asyncio.sleep(6)
        assert len(rig.durable.pulls) == 1
        await rig.store(2)
        assert len(rig.all) == 2
    assert [each["error"] for each in logs] == ["Exceeded MaxWaiting"]


async def test_a_pull_that_the_server_drops_without_a_word_is_forgotten_at_its_deadline() -> None:
    async with pulling(concurrency=8, ack_wait_s=1) as rig:
        rig.durable.mute = True
        rig.durable.end_pulls("")
        assert rig.stream.window.out == 8
        await asyncio.sleep(20)
        rig.durable.mute = False
        await asyncio.sleep(5.33)
        assert rig.stream.window.out == rig.durable.asked == 8


async def test_a_smaller_batch_is_asked_for_when_the_group_wants_it(logs: list[Any]) -> None:
    async with pulling(concurrency=20) as rig:
        rig.durable.max_batch = 5
        rig.broker.end_pulls(STATION, GROUP, "408 Request Timeout")
        await rig.store(20)
        assert rig.durable.requests[-1]["batch"] <= 5
        assert len(rig.all) == 20
    assert [each["error"] for each in logs] == ["Exceeded MaxRequestBatch of 5"]


async def test_a_shorter_pull_is_asked_for_when_the_group_wants_it() -> None:
    async with pulling() as rig:
        before = rig.stream.expires_s
        rig.broker.end_pulls(STATION, GROUP, "409 Exceeded MaxRequestExpires of 1s")
        await settle()
        assert rig.durable.requests[-1]["expires"] == int(before / 2 * 1e9)


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        ("409 Consumer Deleted", Missing, "was deleted while it was consumed"),
        ("409 Consumer is push based", BrokerRefused, "cannot be pulled from: 409 Consumer is push based"),
        ("400 Bad Request - nonsense", BrokerRefused, "cannot be pulled from: 400 Bad Request"),
        ("412 Required Api Level", BrokerRefused, "cannot be pulled from: 412"),
    ],
)
async def test_what_no_pull_can_cure_ends_the_stream(status: str, kind: type[Exception], words: str) -> None:
    async with pulling() as rig:
        rig.durable.mute = True
        before = len(rig.durable.requests)
        rig.broker.end_pulls(STATION, GROUP, status)
        await asyncio.sleep(30)
        assert type(rig.stream.error) is kind
        assert words in str(rig.stream.error)
        assert len(rig.durable.requests) == before


@pytest.mark.parametrize("status", ["423 Nats-Wrong-Pin-Id", "500 Whatever", "409 Consumer Paused"])
async def test_an_unknown_status_is_a_pause_and_not_a_hot_loop(status: str, logs: list[Any]) -> None:
    async with pulling() as rig:
        rig.durable.refusal = status
        rig.broker.end_pulls(STATION, GROUP, status)
        await asyncio.sleep(5)
        assert 2 <= len(rig.durable.requests) < 15
        rig.durable.refusal = ""
        await asyncio.sleep(8)
        assert rig.durable.asked == 4
        assert rig.stream.error is None
    assert [each["error"] for each in logs] == [status]


@pytest.mark.parametrize("status", [b"409 Consumer Deleted", b"100", b"503", b"400 x"])
async def test_a_message_whose_headers_look_like_a_status_is_a_message(status: bytes) -> None:
    async with pulling() as rig:
        await rig.store(1, headers=b"NATS/1.0 " + status + b"\r\n\r\n")
        assert rig.stream.error is None
        assert len(rig.held) == 1
        assert rig.stream.window.out + rig.stream.window.held == 4


async def test_a_resent_message_has_nothing_to_ack_and_frees_its_place() -> None:
    async with pulling(concurrency=2) as rig:
        rig.broker.resend(STATION, GROUP, b"again")
        await settle()
        (message,) = rig.held
        assert (message.resent, message.data) == (True, b"again")
        rig.ack(1)
        await settle()
        assert rig.stream.window.held == 0
        assert rig.durable.answers == []


async def test_a_message_that_arrives_behind_a_resent_one_has_its_whole_lease() -> None:
    async with pulling(ack_wait_s=2) as rig:
        await asyncio.sleep(100)
        rig.broker.resend(STATION, GROUP, b"again")
        await rig.store(1)
        assert [message.data for message in rig.held] == [b"again", b"x"]
        assert all(message.leased for message in rig.held)
