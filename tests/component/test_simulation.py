"""Random faults on random work, by seed: nothing is lost, the window holds, and nobody starves."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from memphis_worker import App, Backoff, Message, Reject
from memphis_worker.options import WorkerOptions
from memphis_worker.testing import MemoryBroker, TestWorker

MESSAGES = 150
HEARTBEAT_S = 0.5
#: Asked of the code: missed heartbeats, then a look-up that times out, then a new connection (reliability 2.4).
STARVED_S = 6 * HEARTBEAT_S + 5.0 + 2.0


class World:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.broker = MemoryBroker(latency_s=self.random.choice([0, 0.001, 0.01]))
        self.done: dict[int, int] = {}
        self.faults: list[str] = []
        self.workers: list[TestWorker] = []
        self.last_change = 0.0
        self.over = False
        random.seed(seed)  # the jitter of pauses

    def app(self) -> App:
        app, chance = App(), self.random

        @app.handler(station="orders", group="bill", concurrency=4, max_ack_time_ms=1000, retry=Backoff(base_s=0.2))
        async def bill(message: Message) -> None:
            self.last_change = asyncio.get_running_loop().time()
            if message.sequence % 29 == 0:
                raise Reject("poison")
            if message.sequence % 13 == 0 and message.deliveries == 1:
                raise ValueError("now and then")
            if chance.random() < 0.8:
                await asyncio.sleep(chance.choice([0, 0.001, 0.05, 0.4]))
            self.done[message.sequence] = self.done.get(message.sequence, 0) + 1

        return app

    async def worker(self) -> TestWorker:
        worker = TestWorker(self.app(), self.broker, WorkerOptions(concurrency=4), [])
        self.workers.append(worker)
        await worker.start()
        return worker

    async def kill(self, worker: TestWorker) -> None:
        """As kill -9: no answer, no good-bye."""
        transport = worker.runner._work.session.transport if worker.runner._work is not None else None
        if transport is not None:
            for link in self.broker.links:
                if link.transport is transport:
                    link.cut()
        assert worker._task is not None
        worker._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await worker._task
        self.workers.remove(worker)

    async def harm(self) -> None:
        broker, chance = self.broker, self.random
        while not self.over:
            await asyncio.sleep(chance.uniform(0.3, 4))
            fault = chance.choice(
                ["cut", "restart", "down", "silent", "leader", "shutdown", "acks", "503", "mute", "kill"]
            )
            self.faults.append(fault)
            group = broker.group("orders", "bill")
            match fault:
                case "cut":
                    broker.cut()
                case "restart":
                    broker.restart(forgotten_acks=chance.choice([0, 5]))
                case "down":
                    broker.stop()
                    await asyncio.sleep(chance.uniform(0.1, 3))
                    broker.start(forgotten_acks=chance.choice([0, 5]))
                case "silent":
                    broker.go_silent()
                case "leader":
                    group.end_pulls("409 Leadership Change")
                case "shutdown":
                    group.end_pulls("409 Server Shutdown")
                case "acks":
                    broker.lose_acks()
                    await asyncio.sleep(0.3)
                    broker.lose_acks(False)
                case "503":
                    group.refusal = "503"
                    group.end_pulls("")
                    await asyncio.sleep(chance.uniform(0.1, 2))
                    group.refusal = ""
                case "mute":
                    group.mute = True
                    group.end_pulls("")
                    await asyncio.sleep(chance.uniform(0.1, 3))
                    group.mute = False
                case "kill":
                    await self.kill(self.workers[0])
                    await self.worker()
            self.last_change = asyncio.get_running_loop().time()

    async def watch(self) -> None:
        """Every 50 ms: the server owes no stream more than it knows of, and what waits is taken before long."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0.05)
            group = self.broker.group("orders", "bill")
            streams = [stream for worker in self.workers for stream in worker.runner.streams]
            for stream in streams:
                if stream.transport.connected and stream._connection == stream.transport.epoch:
                    owed = sum(pull.batch for pull in group.pulls if pull.reply.startswith(stream._inbox))
                    assert owed <= stream.window.out, f"{stream}: the server owes it {owed}"
            if self.broker.up and (group.waiting or group.again) and not any(stream.window.held for stream in streams):
                assert loop.time() - self.last_change < STARVED_S, f"starved: {streams}"
            else:
                self.last_change = loop.time()


@pytest.mark.parametrize("seed", range(40))
async def test_random_faults(seed: int) -> None:
    world = World(seed)
    for _ in range(2):
        await world.worker()
    client = world.broker.transport()
    watching = asyncio.create_task(world.watch())
    harming = asyncio.create_task(world.harm())

    async def send() -> None:
        for _ in range(MESSAGES):
            while not (world.broker.up and client.connected):
                await asyncio.sleep(0.1)
            world.broker._publish(b"orders.final", b"", b"", b"x")
            await asyncio.sleep(world.random.choice([0, 0, 0.2, 0.5]))

    await send()
    await asyncio.sleep(world.random.uniform(0, 10))
    assert not harming.done(), harming.exception()
    assert world.faults, "a run without a fault proves nothing"
    world.over = True
    await harming
    group = world.broker.group("orders", "bill")
    world.broker.up = True
    world.broker.lose_acks(False)
    group.refusal, group.mute = "", False
    await world.broker.until(lambda: group.idle, 300)
    assert not watching.done(), watching.exception()
    watching.cancel()
    codes = [await worker.stop() for worker in list(world.workers)]
    await client.close()
    dead = {each.sequence for each in world.workers[0].dead_letters()}
    assert codes == [0, 0]
    assert group.exhausted == []
    assert world.done.keys() | dead == set(range(1, MESSAGES + 1)), f"lost, after {world.faults}"
    assert {each for each in range(1, MESSAGES + 1) if each % 29 == 0} <= dead
    assert group.flying == {}
