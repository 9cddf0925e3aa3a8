"""Replays the recorded exchanges against embedded brokers. `python -m tests.wire.report` prints what agrees."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

from memphis_worker.embedded import EmbeddedBroker
from tests.wire import checks, classic_tcp, compare
from tests.wire.classic_http import HttpReplay
from tests.wire.compare import Outcome
from tests.wire.differences import ALLOWED, NOT_REPLAYED
from tests.wire.scenes import BEFORE, HEADERS
from tests.wire.world import World

OVERVIEW_WAIT_S = 0.01
RESTARTED = (
    "getAllProducersByStation: right after the broker was killed (SIGKILL) and started again",
    "createProducer: same name by a new connection, after the broker restart",
    "createProducer: same name by the reconnected id, after the broker restart",
    "getAllConsumersByStation: after the reconnect",
)
OVERVIEW = (
    "getMainOverviewData: one station (environment with DOCKER_ENV and DEV_ENV set, no UI)",
    "getAllStations: one station",
    "getClusterInfo: database is down",
)


async def replay_main() -> list[Outcome]:
    """Parts A, B, C and S on one broker, with the streams, groups and resent messages seen on the way."""
    outcomes: list[Outcome] = []
    async with (
        EmbeddedBroker(overview_wait_s=OVERVIEW_WAIT_S, jwt_secret="x", refresh_jwt_secret="y") as broker,
        World(broker) as world,
    ):
        replay = HttpReplay(world, BEFORE, HEADERS)
        for exchange in _of_parts("ABCS"):
            outcomes += await checks.before(world, exchange["scenario"])
            outcomes.append(await replay.run(exchange))
            outcomes += await checks.after(world, exchange["scenario"])
        outcomes += await checks.dedup(world)
    return outcomes


async def replay_sandbox() -> list[Outcome]:
    """Part D: SANDBOX_ENV, no secrets, tokens of one minute."""
    settings: dict[str, Any] = {"sandbox": True, "jwt_secret": "", "refresh_jwt_secret": "", "jwt_expires_in_s": 60}
    async with EmbeddedBroker(**settings, ping_interval_ms=2000) as broker, World(broker, secret="") as world:
        replay = HttpReplay(world, BEFORE, HEADERS)
        return [await replay.run(exchange) for exchange in _of_parts("D")]


async def replay_restart(directory: Path) -> list[Outcome]:
    """Of part E: a broker that was started again, and the overview of one station."""
    async with EmbeddedBroker(directory=directory) as broker, World(broker) as world:
        session = await world.connect("before")
        await world.producer(session, "rp", "rst")
        await world.consumer(session, "rc", "rst", "rg", max_ack_time_ms=500, max_msg_deliveries=1)
        token = await world.root_token()
        world.sessions.clear()  # it stays open until the broker is gone
    session.writer.close()
    async with EmbeddedBroker(directory=directory) as broker, World(broker) as world:
        world.kept["root"], world.kept["before"] = token, session.id
        replay = HttpReplay(world, BEFORE, HEADERS)
        outcomes = [await replay.run(exchange) for exchange in _named("E", RESTARTED)]
    async with EmbeddedBroker() as broker, World(broker) as world:
        await world.producer(await world.connect("over"), "p", "ovst")
        for _ in range(15):
            await world.produce("ovst.final", b"m")
        replay = HttpReplay(world, BEFORE, HEADERS)
        return outcomes + [await replay.run(exchange) for exchange in _named("E", OVERVIEW)]


async def replay_tcp() -> list[Outcome]:
    """The sessions on the control channel."""
    async with EmbeddedBroker(jwt_secret="x") as broker, World(broker) as world:
        for username, user_type in (("worker", "application"), ("gone", "application"), ("mgmt", "management")):
            body = {"username": username, "user_type": user_type, "password": "secret"}
            await world.call("POST", "/api/usermgmt/addUser", body)
        recorded = [exchange for exchange in compare.lines("tcp") if exchange["scenario"] not in NOT_REPLAYED]
        return [await classic_tcp.run(world, exchange) for exchange in recorded]


def _named(part: str, scenarios: tuple[str, ...]) -> list[dict[str, Any]]:
    return [exchange for exchange in _of_parts(part) if exchange["scenario"] in scenarios]


def _of_parts(parts: str) -> list[dict[str, Any]]:
    found = [exchange for exchange in compare.lines("http") if exchange["scenario"] not in NOT_REPLAYED]
    return sorted((exchange for exchange in found if exchange["part"] in parts), key=lambda found: found["part"])


async def replay() -> list[Outcome]:
    """Everything."""
    with tempfile.TemporaryDirectory() as directory:
        restarted = await replay_restart(Path(directory))
    return [*await replay_main(), *await replay_sandbox(), *restarted, *await replay_tcp()]


def main() -> int:
    """Prints the differences and the count; 1 when a difference is not a known one."""
    outcomes = asyncio.run(replay())
    differing = [outcome for outcome in outcomes if outcome.difference]
    for outcome in differing:
        reason = ALLOWED.get(outcome.scenario, "NOT EXPECTED")
        print(f"[{outcome.file}] {outcome.scenario}\n    reason: {reason}\n    {outcome.difference}")
    print(f"{len(outcomes) - len(differing)} of {len(outcomes)} exchanges agree")
    print(f"{len(NOT_REPLAYED)} recorded scenarios are not replayed:")
    for scenario, reason in NOT_REPLAYED.items():
        print(f"    {scenario}: {reason}")
    return int(any(outcome.scenario not in ALLOWED for outcome in differing))


if __name__ == "__main__":
    sys.exit(main())
