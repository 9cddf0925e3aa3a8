"""Streams, groups and resent messages, compared where they were looked at in the recording."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.wire import compare
from tests.wire.compare import Outcome
from tests.wire.world import World

STREAMS_BEFORE = {
    "createProducer: ok, names in upper case": [  # the end of part A
        line["scenario"] for line in compare.lines("streams") if not line["scenario"].startswith("station auto")
    ],
    "destroyConsumer: first member of two": ["station auto-created by createProducer", "station auto-created, dash"],
    "getAllConsumersByStation": ["station auto-created by createConsumer"],
}
GROUPS_BEFORE = {
    "status": ["internal log consumer"],
    "createConsumer: second member, other options (ignored)": ["group, ack 2000 ms, 3 deliveries"],
    "createConsumer: max_msg_deliveries=0": ["after the second member"],
    "getAllConsumersByStation": [
        *("SDK defaults", "only the required keys", "empty group", "consumer on the auto-created station"),
        *(line["scenario"] for line in compare.lines("consumers") if line["scenario"].startswith("{")),
        "durable made by someone else before createConsumer",
    ],
    "destroyConsumer: last member": ["group after its first member was destroyed"],
    "destroyConsumer: again": ["group after its last member was destroyed"],
    "createStation: record exists, stream was removed in NATS": ["durable lost in NATS, second member created"],
    "destroyConsumer: of an inactive consumer": ["durable after the TCP drop of its only member"],
    "getAllConsumersByStation: two records of one name": ["re-created by another connection: config"],
    "getAllConsumersByStation: after destroying the doubled name": ["after destroying the doubled name"],
    "getMessageDetails: binary payload": ["durable after one exhausted message"],
    "ackPoisonMessages: again": ["durable after ackPoisonMessages (JetStream is not touched)"],
    "getStationOverviewData: group with one deleted and one disconnected member": [
        "durable after its last active member was destroyed while an inactive (crashed) member exists"
    ],
}
RESENT_AFTER = {
    "resendPoisonMessages: one id, two groups": "resend of one message poisoned for two groups",
    "resendPoisonMessages: binary, 150 characters, and one unknown id": (
        "resend of a binary message (00 ff fe 80 41 0a) and of a 150-character message"
    ),
    "resendPoisonMessages: same id twice in the list": "resend with the same id twice",
    "resendPoisonMessages: after the ack": "resend after ackPoisonMessages",
    "resendPoisonMessages: all its groups destroyed": "resend after the groups were destroyed",
}

DEDUP: dict[str, dict[str, object]] = {
    "dedup: station dd1 (window 1500 ms), same Nats-Msg-Id again after 0.2 s": {
        "dedup_enabled": True,
        "dedup_window_in_ms": 1500,
    },
    "dedup: station dd0 (dedup off), same Nats-Msg-Id again after 0.02 s": {},
}
"""Scenario -> options of the station."""


async def before(world: World, scenario: str) -> list[Outcome]:
    """The configurations that were looked at before this exchange."""
    streams = [await _stream(world, name) for name in STREAMS_BEFORE.get(scenario, ())]
    return streams + [await _group(world, name) for name in GROUPS_BEFORE.get(scenario, ())]


async def _stream(world: World, scenario: str) -> Outcome:
    line = _line("streams", scenario)
    api = f"STREAM.INFO.{line['stream']}" if line["stream"] else "STREAM.NAMES"
    answer = await world.jetstream(api)
    return Outcome("streams", scenario, compare.config_difference(line["response"], answer))


async def _group(world: World, scenario: str) -> Outcome:
    line = _line("consumers", scenario)
    answer = await world.jetstream(f"CONSUMER.INFO.{line['stream']}.{line['consumer']}")
    return Outcome("consumers", scenario, compare.config_difference(line["response"], answer))


async def after(world: World, scenario: str) -> list[Outcome]:
    """What a resend has sent."""
    name = RESENT_AFTER.get(scenario)
    if name is None:
        return []
    recorded = _line("deadletters", name)["event"]
    # The resend was published before its HTTP reply: a flush brings it, the callbacks then need a turn of the loop.
    await world.nats.flush()
    await asyncio.sleep(0)
    got = [_resent(message) for message in world.resent]
    world.resent.clear()
    return [Outcome("deadletters", name, compare.differing(_sorted(recorded), _sorted(got)))]


def _sorted(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The order of several records is that of the database."""
    return sorted(events, key=lambda event: (event["data"], event["subject"]))


def _resent(message: Any) -> dict[str, Any]:
    headers = "".join(f"{name}: {value}\r\n" for name, value in (message.headers or {}).items())
    data = message.data.decode()
    return {"subject": message.subject, "headers": f"NATS/1.0\r\n{headers}\r\n", "data": data}


async def dedup(world: World) -> list[Outcome]:
    """The same Nats-Msg-Id within the window of a station."""
    outcomes = []
    for scenario, options in DEDUP.items():
        recorded = _line("deadletters", scenario)["event"]
        name = recorded[0]["stream"]
        await world.call("POST", "/api/stations/createStation", {"name": name, "factory_name": "ddf", **options})
        acks = [await world.produce(f"{name}.final", b"m", Nats_Msg_Id="same") for _ in range(2)]
        got = [{key: ack[key] for key in ("stream", "seq", "duplicate") if key in ack} for ack in acks]
        outcomes.append(Outcome("deadletters", scenario, compare.differing(recorded, got)))
    return outcomes


def _line(file: str, scenario: str) -> dict[str, Any]:
    return next(line for line in compare.lines(file) if line["scenario"] == scenario)
