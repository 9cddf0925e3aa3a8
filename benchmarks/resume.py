"""How soon a worker goes on after its nats-server was killed with -9 and came back; and that it never holds too much.

Prints, for each round, the seconds from the port being open again to the first message handled, and the most that was
held and asked for, as a share of the window.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time

import structlog

from memphis_worker import App
from memphis_worker.bootstrap import connector, make_runner, select_handlers
from memphis_worker.embedded import EmbeddedBroker
from memphis_worker.embedded.thread import BrokerThread
from memphis_worker.errors import MemphisWorkerError
from memphis_worker.options import ConnectOptions, WorkerOptions
from memphis_worker.runtime.runner import Runner, Session
from memphis_worker.runtime.status import Status
from memphis_worker.runtime.stop import Stop

ROUNDS = 5


async def port_open(port: int) -> float:
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return time.perf_counter()
        await asyncio.sleep(0.002)


async def produce_one(session: Session, number: int) -> None:
    while True:
        try:
            await session.produce("resume", str(number).encode(), msg_id=f"resume-{number}-{time.time_ns()}")
            return
        except MemphisWorkerError:
            await asyncio.sleep(0.01)


async def watch_window(runner: Runner, worst: list[float]) -> None:
    while True:
        for stream in runner.streams:
            worst[0] = max(worst[0], (stream.window.held + stream.window.out) / stream.window.size)
        await asyncio.sleep(0.01)


async def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    app, handled = App("resume"), asyncio.Event()

    @app.handler(station="resume", group="g")
    async def handle(body: bytes) -> None:
        handled.set()

    broker = EmbeddedBroker()
    with BrokerThread(broker) as url:
        connect = connector(ConnectOptions.from_url(url, env={}))
        stop, status, options = Stop(), Status(), WorkerOptions()
        runner = make_runner(app, select_handlers(app, options), options, connect=connect, stop=stop, status=status)
        running = asyncio.create_task(runner.run())
        session = await connect()
        while status.state != "running":
            await asyncio.sleep(0.01)
        worst = [0.0]
        watching = asyncio.create_task(watch_window(runner, worst))
        print("round  server down [s]  first message after the port is open [s]")
        for number in range(1, ROUNDS + 1):
            handled.clear()
            await produce_one(session, 0)
            await handled.wait()
            handled.clear()
            pid = broker.nats_server_pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            killed = time.perf_counter()
            await asyncio.sleep(0.05)
            opened = await port_open(broker.data_port)
            await asyncio.gather(produce_one(session, number), handled.wait())
            print(f"{number:5}  {opened - killed:15.2f}  {time.perf_counter() - opened:10.2f}", flush=True)
        print(f"held and asked for, at most: {worst[0]:.2f} of the window")
        watching.cancel()
        stop.request("done")
        await running
        await session.close()


if __name__ == "__main__":
    asyncio.run(main())
