"""A real broker for a module, in a thread of its own, so that any test loop (or none) can use it."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from client_rig import connect

from memphis_worker.client.connection import Memphis
from memphis_worker.embedded import EmbeddedBroker


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    ready: list[EmbeddedBroker] = []
    failed: list[BaseException] = []
    started, ended = threading.Event(), threading.Event()

    async def serve() -> None:
        try:
            async with EmbeddedBroker(overview_wait_s=0.1) as running:
                ready.append(running)
                started.set()
                while not ended.is_set():
                    await asyncio.sleep(0.02)
        except BaseException as exc:
            failed.append(exc)
            raise
        finally:
            started.set()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="broker")
    thread.start()
    started.wait()
    try:
        assert not failed, failed
        yield ready[0]
    finally:
        ended.set()
        thread.join()


@pytest.fixture
async def memphis(broker: EmbeddedBroker) -> AsyncIterator[Memphis]:
    memphis = await connect(broker)
    try:
        yield memphis
    finally:
        await memphis.close()


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return f"t_{secrets.token_hex(5)}"
