"""A PullStream alone on a MemoryBroker: the test takes the batches and settles the messages."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from memphis_worker.client.budget import ByteBudget
from memphis_worker.client.control.plane import Pullable
from memphis_worker.client.message import Message
from memphis_worker.client.pull import PullStream
from memphis_worker.options import GroupOptions, StationOptions
from memphis_worker.testing import MemoryBroker
from memphis_worker.testing.durable import Durable
from memphis_worker.testing.link import MemoryTransport
from memphis_worker.testing.plane import MemoryPlane

STATION, GROUP = "orders", "bill"


class Rig:
    def __init__(self, broker: MemoryBroker, transport: MemoryTransport, pullable: Pullable) -> None:
        self.broker = broker
        self.transport = transport
        self.durable: Durable = broker.group(STATION, GROUP)
        self.held: list[Message] = []
        self.all: list[Message] = []
        self.auto = False
        """Whether everything is acked as it comes."""
        self.pullable = pullable
        self.stream: PullStream
        self.peak = 0
        """The most that was in flight and asked for at once, as the server sees it."""

    def take(self, batch: list[Message]) -> None:
        self.all += batch
        self.held += batch
        if self.auto:
            self.ack(len(self.held))

    def ack(self, count: int) -> None:
        for message in self.held[:count]:
            message.settle_ack()
        del self.held[:count]

    async def store(self, count: int, data: bytes = b"x", **options: bytes) -> None:
        for _ in range(count):
            self.transport.publish(b"orders.final", data, **options)
        await settle()

    @property
    def credit(self) -> int:
        return self.durable.asked + len([s for s in self.durable.flying if s not in self.durable.again])


async def settle() -> None:
    """All that can happen now has happened; no virtual time has passed."""
    for _ in range(20):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def pulling(
    *,
    concurrency: int = 4,
    ack_wait_s: float = 30.0,
    max_deliver: int = -1,
    window_bytes: int = 64 * 1024 * 1024,
    batch_max: int | None = None,
    broker: MemoryBroker | None = None,
    stored: int = 0,
    data: bytes = b"x",
    start: bool = True,
) -> AsyncIterator[Rig]:
    broker = broker or MemoryBroker()
    plane = MemoryPlane(broker)
    await plane.create_station(STATION, StationOptions())
    options = GroupOptions(max_ack_time_ms=int(ack_wait_s * 1000), server_deliveries=max_deliver)
    (pullable,) = await plane.create_consumer(STATION, "member", GROUP, options)
    rig = Rig(broker, broker.transport(), pullable)
    rig.stream = PullStream(
        rig.transport,
        pullable,
        station=STATION,
        group=GROUP,
        deliver=rig.take,
        concurrency=concurrency,
        budget=ByteBudget(window_bytes, 1),
        batch_max=batch_max,
    )
    await rig.store(stored, data)
    task = asyncio.create_task(rig.stream.run())
    try:
        if start:
            await settle()
        yield rig
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await rig.transport.close()
        for group in list(broker.streams[STATION].groups.values()):
            group.close()
