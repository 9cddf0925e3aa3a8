"""The recorded sessions on the control channel, each on a socket of its own."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from tests.wire import compare
from tests.wire.compare import Outcome
from tests.wire.world import World

SILENCE_S = 0.1
"""How long nothing has to come for a recorded null."""
ANSWER_S = 5.0
SEGMENT_S = 0.002
CLOSED = "<closed by server>"
TWO_ANSWERS = {("pipelined: connect + ping in one segment", 0): 2}
"""Where it was listened twice after one write."""
SHUTS = ("client shuts its side", "sdk 0.1.5: connect: root", "sdk 0.1.5: connect: application user")


async def run(world: World, exchange: dict[str, Any]) -> Outcome:
    """One recorded session."""
    scenario = exchange["scenario"]
    if scenario == "IPv6 loopback":
        return Outcome("tcp", scenario, compare.differing(exchange["receive"], [await _refused(world)]))
    if scenario == "reconnect of the dropped session":
        session = await world.connect("dropped", "worker")
        world.ids[exchange["receive"][0][18:42]] = session.id
    reader, writer = await asyncio.open_connection("127.0.0.1", world.broker.tcp_port)
    try:
        got = await _talk(world, exchange, reader, writer)
    finally:
        writer.close()
    for recorded, answer in zip(exchange["receive"], got, strict=False):
        compare.learn(world.ids, recorded or "", answer or "")
    theirs = [compare.normal(text) if text else text for text in exchange["receive"]]
    return Outcome("tcp", scenario, compare.differing(theirs, [compare.normal(text) if text else text for text in got]))


async def _talk(
    world: World, exchange: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> list[str | None]:
    receive: list[str | None] = exchange["receive"]
    got: list[str | None] = []
    for number, message in enumerate(_messages(exchange)):
        if exchange["scenario"].startswith("refresh after the user was removed") and number == 2:
            await world.call("DELETE", "/api/usermgmt/removeUser", {"username": "gone"})
        for segment in message:
            text = compare.translate(world.ids, segment).replace("<70000 x>", "x" * 70000)
            writer.write(text.encode())
            if len(message) > 1:
                await asyncio.sleep(SEGMENT_S)
        if number + 1 == len(exchange["send"]) and "client shuts its side" in exchange["scenario"]:
            break
        for recorded in receive[len(got) : len(got) + TWO_ANSWERS.get((exchange["scenario"], number), 1)]:
            got.append(await _received(reader, recorded))
    if any(end in exchange["scenario"] for end in SHUTS):
        writer.write_eof()
    for recorded in receive[len(got) :]:
        got.append(await _received(reader, recorded))
    return got


def _messages(exchange: dict[str, Any]) -> list[list[str]]:
    """What is sent before each answer: the segments of one message, else one write each."""
    send, scenario = exchange["send"], exchange["scenario"]
    if scenario in ("connect: JSON in 3 segments", "connect: one byte per segment"):
        return [send]
    if scenario == "ping in segments":
        return [send[:1], send[1:]]
    return [[segment] for segment in send]


async def _received(reader: asyncio.StreamReader, recorded: str | None) -> str | None:
    try:
        async with asyncio.timeout(SILENCE_S if recorded is None else ANSWER_S):
            data = await reader.read(1024)
    except TimeoutError:
        return None
    return data.decode() if data else CLOSED


async def _refused(world: World) -> str:
    try:
        _, writer = await asyncio.open_connection("::1", world.broker.tcp_port)
    except OSError as error:
        return f"{type(error).__name__}({error.errno}, {os.strerror(error.errno or 0)!r})"
    writer.close()
    return "connected"
