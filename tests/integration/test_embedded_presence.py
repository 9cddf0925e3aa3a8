"""Presence as the real broker has it: shared ids, silent sessions, names that stay taken."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from memphis_worker.embedded import EmbeddedBroker
from tests.wire import raw_http
from tests.wire.world import Session, World

SECOND = 1_000_000_000


async def create(world: World, session: Session, name: str) -> str:
    """What createProducer answers: its status, or the text for the user."""
    body = f'{{"name":"{name}","station_name":"st","connection_id":"{session.id}","producer_type":"application"}}'
    headers = {"Authorization": f"Bearer {session.token}"}
    port = world.broker.management_port
    answer = await raw_http.request(port, "POST", "/api/producers/createProducer", headers, body.encode())
    return "200" if answer.status_line.endswith("200 OK") else answer.body.decode()


async def ping(session: Session) -> bytes:
    session.writer.write(b'{"ping": true}')
    return await session.reader.read(1024)


async def active(world: World) -> dict[str, bool]:
    listed = await world.call("GET", "/api/producers/getAllProducers")
    return {item["name"]: item["is_active"] for item in listed}


async def test_whichever_of_two_sockets_with_one_id_closes_first_makes_it_inactive() -> None:
    async with EmbeddedBroker() as broker, World(broker) as world:
        first = await world.connect("first")
        assert await create(world, first, "p") == "200"
        await world.connect("second", connection_id=first.id)
        await world.drop("second", "st", "Producers")
        assert await active(world) == {"p": False}
        assert b'"ping_interval_ms":60000' in await ping(first)


async def test_silent_session_is_swept_and_a_ping_does_not_revive_it() -> None:
    async with EmbeddedBroker() as broker, World(broker) as world:
        silent = await world.connect("silent")
        assert await create(world, silent, "p") == "200"
        broker.sweep(time.time_ns() + 66 * SECOND)
        assert b'"connection_id"' in await ping(silent)
        assert await active(world) == {"p": False}
        assert "Connection is not active" in await create(world, silent, "q")
        again = await world.connect("again", connection_id=silent.id)
        assert again.id == silent.id
        assert await active(world) == {"p": True}


async def test_reconnect_without_a_ping_is_swept_again() -> None:
    async with EmbeddedBroker() as broker, World(broker) as world:
        silent = await world.connect("silent")
        broker.sweep(time.time_ns() + 66 * SECOND)
        await world.connect("again", connection_id=silent.id)
        broker.sweep(time.time_ns() + 66 * SECOND)
        assert "Connection is not active" in await create(world, silent, "p")


async def test_name_stays_taken_after_a_restart_until_the_sweep(tmp_path: Path) -> None:
    async with EmbeddedBroker(directory=tmp_path) as broker, World(broker) as world:
        old = await world.connect("old")
        assert await create(world, old, "p") == "200"
        world.sessions.clear()  # it stays open: a broker that stops marks nothing
    old.writer.close()
    async with EmbeddedBroker(directory=tmp_path) as broker, World(broker) as world:
        new = await world.connect("new")
        assert "has to be unique" in await create(world, new, "p")
        broker.sweep(time.time_ns() + 66 * SECOND)
        newer = await world.connect("newer")
        assert await create(world, newer, "p") == "200"


async def test_sweep_runs_by_itself() -> None:
    async with EmbeddedBroker(sweep_interval_s=0.01, ping_interval_ms=-5000) as broker, World(broker) as world:
        session = await world.connect("silent")
        async with asyncio.timeout(10):
            while "Connection is not active" not in await create(world, session, f"p{time.time_ns()}"):
                pass
