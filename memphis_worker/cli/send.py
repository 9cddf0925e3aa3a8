"""`memphis-worker send`: messages from the command line, each confirmed by the broker."""

from __future__ import annotations

import asyncio
import io
import os
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator

import click

from memphis_worker.cli.connect import visit
from memphis_worker.cli.params import broker_flags, connect_options, flag, log_flags
from memphis_worker.client.names import station_name
from memphis_worker.client.produce import produce
from memphis_worker.errors import InvalidOption, MemphisWorkerError, Missing, UsageError
from memphis_worker.runtime.binding import declare_station
from memphis_worker.runtime.runner import Session

__all__ = ["send"]

#: Messages on their way at once.
WINDOW = 256
READ_BYTES = 65_536
PRODUCER = "memphis_worker"

EPILOG = """\b
Examples:
  memphis-worker send orders '{"id": 1}'
  memphis-worker send orders '{"id": 1}' --create --count 100
  memphis-worker send orders hello --header source=cli --msg-id order-1
  cat orders.jsonl | memphis-worker send orders -

\b
Exit code 0 only when the broker has confirmed every message."""


@click.command(epilog=EPILOG)
@click.argument("station")
@click.argument("data", required=False)
@flag("--header", "headers", multiple=True, metavar="KEY=VALUE", envvar=None, help="May be given more than once.")
@flag("--msg-id", default=None, metavar="ID", help="The broker stores one message of an id (within its dedup window).")
@flag("--count", type=click.IntRange(min=1), default=1, help="How often to send it.")
@flag("--create", is_flag=True, help="Make the station if it is missing.")
@broker_flags
@log_flags("warning")
def send(
    station: str,
    data: str | None,
    headers: tuple[str, ...],
    msg_id: str | None,
    count: int,
    create: bool,
    url: str | None,
    timeout: float,
) -> None:
    """Send DATA to STATION as one message.

    With - as DATA, every line of standard input is a message; empty lines are left out.
    """
    name = station_name(station)
    if not data:
        raise UsageError("there is nothing to send: give DATA, or - to read one message from each line of input")
    if msg_id is not None and (data == "-" or count > 1):
        raise InvalidOption("--msg-id is the id of one message; leave out --count and -")
    if data == "-" and sys.stdin is None:
        raise UsageError("standard input is closed; there is nothing to send")
    sending = _Sending(name, _parsed(headers), msg_id, timeout)

    async def work(session: Session) -> None:
        if create:
            await declare_station(session.plane, name, None)
        await sending.all(session, _lines() if data == "-" else _one(os.fsencode(data)), count)

    visit(connect_options(url), timeout, work)
    if not sending.sent:
        raise UsageError("there was nothing to send: standard input is empty")
    click.echo(sending.summary())


class _Sending:
    """Many messages to one station, in order, a window of them on their way at once."""

    def __init__(self, station: str, headers: dict[str, str], msg_id: str | None, timeout_s: float) -> None:
        self._station = station
        self._headers = headers
        self._msg_id = msg_id
        self._timeout_s = timeout_s
        self.sent: Counter[str] = Counter()
        self._room = asyncio.Semaphore(WINDOW)
        self._under_way: set[asyncio.Task[None]] = set()
        self._failed: list[MemphisWorkerError] = []
        self._failing = asyncio.Event()

    async def all(self, session: Session, messages: AsyncIterator[bytes], count: int) -> None:
        """Raises the first error, with how many were confirmed by then; it does not wait for more messages first."""
        feeding = asyncio.create_task(self._feed(session, messages, count), name="feed")
        failing = asyncio.create_task(self._failing.wait(), name="failure")
        await asyncio.wait({feeding, failing}, return_when=asyncio.FIRST_COMPLETED)
        for task in (feeding, failing):
            task.cancel()
        await asyncio.wait({feeding, failing})
        while self._under_way:
            await asyncio.wait(self._under_way)
        if self._failed:
            raise self._explained(self._failed[0])
        feeding.result()

    async def _feed(self, session: Session, messages: AsyncIterator[bytes], count: int) -> None:
        async for payload in messages:
            for _ in range(count):
                await self._room.acquire()
                task = asyncio.create_task(self._send(session, payload), name="send")
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)

    async def _send(self, session: Session, payload: bytes) -> None:
        try:
            if not self._failed:
                await self._produce(session, payload)
        except MemphisWorkerError as exc:
            self._failed.append(exc)
            self._failing.set()
        finally:
            self._room.release()

    async def _produce(self, session: Session, payload: bytes) -> None:
        ack = await produce(
            session.plane,
            session.transport,
            self._station,
            payload,
            producer=PRODUCER,
            msg_id=self._msg_id or str(uuid.uuid4()),
            headers=self._headers,
            timeout_s=self._timeout_s,
        )
        self.sent["duplicate" if ack.duplicate else "stored"] += 1

    def _explained(self, error: MemphisWorkerError) -> MemphisWorkerError:
        hint = "; --create makes it" if isinstance(error, Missing) else ""
        confirmed = sum(self.sent.values())
        count = f"; {confirmed} {'message was' if confirmed == 1 else 'messages were'} confirmed" if confirmed else ""
        return type(error)(f"{error}{hint}{count}")

    def summary(self) -> str:
        total = sum(self.sent.values())
        text = f"{self._station}: {total} {'message' if total == 1 else 'messages'} confirmed"
        return text + (" (its id was there already)" if self.sent["duplicate"] else "")


def _parsed(headers: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for each in headers:
        name, equals, value = each.partition("=")
        if not equals or not name.strip():
            raise InvalidOption(f"--header {each!r} is not KEY=VALUE")
        found[name.strip()] = value
    return found


async def _one(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _lines() -> AsyncIterator[bytes]:
    """The lines of standard input as they come, without their ends and without empty ones."""
    loop, source = asyncio.get_running_loop(), sys.stdin.buffer
    assert isinstance(source, io.BufferedReader)
    rest = b""
    while chunk := await loop.run_in_executor(None, source.read1, READ_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.rstrip(b"\r"):
                yield line.rstrip(b"\r")
    if rest.rstrip(b"\r"):
        yield rest.rstrip(b"\r")
