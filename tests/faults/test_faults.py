"""Workers and servers are killed; nothing is lost."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from memphis_worker.embedded import EmbeddedBroker
from tests.faults.rig import WorkerProcess, handled, produce, settled, signed_in, until


@pytest.fixture
async def broker() -> AsyncIterator[EmbeddedBroker]:
    async with EmbeddedBroker() as running:
        yield running


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "record"


async def test_nothing_is_lost_when_workers_and_the_server_are_killed(
    broker: EmbeddedBroker, record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """20,000 messages, the worker killed with -9 three times and the nats-server once."""
    count, kills = 20_000, (2_000, 7_000, 15_000)
    async with signed_in(broker.url) as session:
        producing = asyncio.create_task(produce(session, "numbers", count))
        for at in kills:
            async with WorkerProcess(broker.url, record, "-H", "mixed") as worker:
                await until(lambda at=at: len(handled(record, "mixed")) >= at, f"{at} handled")  # type: ignore[misc]
                await worker.kill()
            if at == kills[1]:
                pid = broker.nats_server_pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
                await until(lambda: broker.nats_server_restarts == 1, "the server is started again")
        sent = await producing
        async with WorkerProcess(broker.url, record, "-H", "mixed") as worker:
            await until(lambda: len(handled(record, "mixed")) == count, "all handled", 120)
            await settled(session, "numbers", "mixed")
            assert await worker.terminate() == 0
    runs = handled(record, "mixed")
    lost, duplicates = sent - set(runs), sum(runs.values()) - len(runs)
    with capsys.disabled():
        print(
            f"\nfaults: sent={len(sent)} handled={len(runs)} lost={len(lost)} duplicates={duplicates} "
            f"({100 * duplicates / count:.2f} %) worker kills={len(kills)} server kills=1"
        )
    assert not lost


async def test_a_server_killed_under_a_running_worker_costs_it_nothing(broker: EmbeddedBroker, record: Path) -> None:
    count = 5_000
    async with signed_in(broker.url) as session, WorkerProcess(broker.url, record, "-H", "fast,mixed") as worker:
        await worker.said("worker.started")
        producing = asyncio.create_task(produce(session, "numbers", count))
        await until(lambda: len(handled(record, "mixed")) >= 1_000, "1,000 handled")
        pid = broker.nats_server_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await worker.said("broker.reconnected")
        sent = await producing
        await until(lambda: len(handled(record, "mixed")) == count, "all handled by one group")
        await until(lambda: len(handled(record, "fast")) == count, "all handled by the other")
        assert set(handled(record, "fast")) == sent == set(handled(record, "mixed"))
        assert await worker.terminate() == 0


async def test_a_stop_under_load_strands_nothing(broker: EmbeddedBroker, record: Path) -> None:
    """SIGTERM in the middle of 5,000: exit 0, and a second worker takes all the rest over at once."""
    count = 5_000
    async with signed_in(broker.url) as session:
        sent = await produce(session, "numbers", count)
        async with WorkerProcess(broker.url, record, "-H", "mixed", "-c", "20") as first:
            await until(lambda: len(handled(record, "mixed")) >= 1_000, "1,000 handled")
            assert await first.terminate() == 0
        done = handled(record, "mixed")
        assert len(done) < count, "the stop came too late to show anything"
        async with WorkerProcess(broker.url, record, "-H", "mixed", "-c", "100") as second:
            await settled(session, "numbers", "mixed")
            assert await second.terminate() == 0
    runs = handled(record, "mixed")
    assert set(runs) == sent
    assert {number: times for number, times in runs.items() if times > 1} == {}
    # Nothing waited for an ack wait to run out: whatever came twice was handed back, not stranded.
    assert b'"stranded": 0' in first.log


async def test_a_handler_that_sleeps_three_ack_waits_runs_once(broker: EmbeddedBroker, record: Path) -> None:
    async with signed_in(broker.url) as session:
        sent = await produce(session, "slow", 6)
        async with WorkerProcess(broker.url, record, "-H", "slow,slow_thread") as worker:
            await until(
                lambda: set(handled(record, "slow")) == sent == set(handled(record, "slow_thread")), "all slept"
            )
            await settled(session, "slow", "slow")
            await settled(session, "slow", "slow_thread")
            assert await worker.terminate() == 0
    for what in ("begin", "slow", "begin_thread", "slow_thread"):
        assert dict.fromkeys(sent, 1) == dict(handled(record, what)), what
