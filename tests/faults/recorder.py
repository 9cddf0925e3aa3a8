"""An app that writes one line for each run of a handler, so that a checker outside sees what was handled.

RECORD: the file. Each line is `<what> <id> <delivery> <pid>`, appended in one write, which survives a kill -9.
"""

from __future__ import annotations

import asyncio
import os

from memphis_worker import App, Message

app = App("recorder")
_file = os.open(os.environ.get("RECORD", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def record(what: str, message: Message) -> None:
    os.write(_file, f"{what} {message.data.decode()} {message.deliveries} {os.getpid()}\n".encode())


@app.handler(station="numbers", group="fast")
async def fast(body: bytes, message: Message) -> None:
    record("fast", message)


@app.handler(station="numbers", group="mixed", max_ack_time_ms=2000)
async def mixed(body: bytes, message: Message) -> None:
    """Suspends, so that many run at once and a kill cuts them."""
    await asyncio.sleep(0.005)
    record("mixed", message)


@app.handler(station="slow", group="slow", max_ack_time_ms=1000, concurrency=4)
async def slow(body: bytes, message: Message) -> None:
    """Three times its ack wait."""
    record("begin", message)
    await asyncio.sleep(3)
    record("slow", message)


@app.handler(station="slow", group="slow_thread", max_ack_time_ms=1000, concurrency=4)
def slow_thread(body: bytes, message: Message) -> None:
    import time

    record("begin_thread", message)
    time.sleep(3)
    record("slow_thread", message)
