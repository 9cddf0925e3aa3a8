"""What the fault tests share: messages that are confirmed, workers that are processes, and the record they leave."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from memphis_worker.bootstrap import connector
from memphis_worker.client.jetstream import consumer_info
from memphis_worker.errors import MemphisWorkerError, Missing
from memphis_worker.options import ConnectOptions, StationOptions
from memphis_worker.runtime.runner import Session

ROOT = Path(__file__).parents[2]


@contextlib.asynccontextmanager
async def signed_in(url: str) -> AsyncIterator[Session]:
    session = await connector(ConnectOptions.from_url(url, env={}))()
    try:
        yield session
    finally:
        await session.close()


async def produce(session: Session, station: str, count: int, first: int = 0) -> set[int]:
    """Confirmed numbers. One that is not confirmed is sent again under its id until it is."""
    if await session.plane.station(station) is None:
        options = StationOptions(dedup_enabled=True, dedup_window_ms=120_000)
        await session.plane.create_station(station, options)

    async def one(number: int) -> None:
        while True:
            try:
                await session.produce(station, str(number).encode(), msg_id=f"{station}-{number}")
                return
            except MemphisWorkerError:
                await asyncio.sleep(0.1)  # the broker is down: it is what the test does to it

    for at in range(first, first + count, 500):
        await asyncio.gather(*(one(number) for number in range(at, min(at + 500, first + count))))
    return set(range(first, first + count))


class WorkerProcess:
    """`memphis-worker run tests.faults.recorder:app` as a process."""

    def __init__(self, url: str, record: Path, *arguments: str) -> None:
        self._command = [sys.executable, "-m", "memphis_worker", "run", "tests.faults.recorder:app", "--no-http"]
        self._command += ["--app-dir", str(ROOT), "--log-format", "json", *arguments]
        self._env = {**os.environ, "MEMPHIS_WORKER_URL": url, "RECORD": str(record)}
        self._record = record
        self.log = b""

    async def __aenter__(self) -> WorkerProcess:
        self._process = await asyncio.create_subprocess_exec(
            *self._command, env=self._env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.log += line

    async def said(self, event: str) -> None:
        await until(
            lambda: f'"{event}"'.encode() in self.log, f"{event} in the log of the worker:\n{self.log.decode()}"
        )

    async def kill(self) -> None:
        self._process.kill()
        await self._process.wait()

    async def terminate(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            return await self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid


def handled(record: Path, what: str) -> Counter[int]:
    """How often each number was handled."""
    if not record.exists():
        return Counter()
    lines = (line.split() for line in record.read_text().splitlines())
    return Counter(int(words[1]) for words in lines if len(words) == 4 and words[0] == what)


async def until(holds: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    """Waits for a condition outside this process: a file, a log, another process."""
    try:
        async with asyncio.timeout(timeout_s):
            while not holds():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {timeout_s:g} s: {what}") from None


async def settled(session: Session, station: str, group: str) -> None:
    """Returns when the group has nothing waiting and nothing in flight."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(Missing):
                info = await consumer_info(session.transport, station, group)
                if not info.waiting and not info.in_flight:
                    return
            await asyncio.sleep(0.05)
