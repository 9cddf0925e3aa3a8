"""`make bench`: this worker beside two nats-py loops, alternating in one run; medians and ratios.

Each contender runs in a process of its own, on the same embedded broker, and drains the same number of stored messages
through a consumer group of its own; every message is acked. Machines differ and neighbours disturb: only the ratios of
one run mean something.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import nats
from nats.js.api import AckPolicy, ConsumerConfig

from memphis_worker import App, __version__
from memphis_worker.bootstrap import connector, make_runner, select_handlers
from memphis_worker.embedded import EmbeddedBroker
from memphis_worker.observability.metrics import Metrics
from memphis_worker.options import ConnectOptions, StationOptions, WorkerOptions
from memphis_worker.runtime.status import Status
from memphis_worker.runtime.stop import Stop

STATION = "bench"
SUBJECT = "bench.final"
BODY = b"x" * 200
HEADERS = {"Nats-Msg-Id": "", "producedBy": "bench", "connectionId": "0" * 24}


async def worker(url: str, group: str, count: int) -> float:
    """memphis-worker: default settings, metrics on, a no-op async handler."""
    app = App("bench")
    done = asyncio.Event()
    seen = 0
    began = 0.0

    @app.handler(station=STATION, group=group)
    async def handle(body: bytes) -> None:
        nonlocal seen, began
        if not seen:
            began = time.perf_counter()
        seen += 1
        if seen == count:
            done.set()

    options, stop, status = WorkerOptions(), Stop(), Status(app=app.name)
    handlers = select_handlers(app, options)
    metrics = Metrics(handlers, options, status, version=__version__)
    runner = make_runner(
        app,
        handlers,
        options,
        connect=connector(ConnectOptions.from_url(url, env={})),
        stop=stop,
        status=status,
        instruments=[metrics],
    )
    metrics.watch(runner)
    running = asyncio.create_task(runner.run())
    waiting = asyncio.create_task(done.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        raise SystemExit(f"the worker ended early: {running.exception() or running.result()}")
    took = time.perf_counter() - began
    stop.request("done")
    await running
    return took


async def tuned(url: str, group: str, count: int) -> float:
    """A hand-tuned nats-py loop: three overlapped pulls on one inbox, ack in the callback."""
    nc, batch = await _nats(url), 500
    await _durable(nc, group)
    inbox, done = nc.new_inbox(), asyncio.Event()
    seen, out, began = 0, 0, 0.0
    pull = f"$JS.API.CONSUMER.MSG.NEXT.{STATION}.{group}"
    request = json.dumps({"batch": batch, "expires": 10_000_000_000}).encode()

    async def on_message(msg: object) -> None:
        nonlocal seen, out, began
        if not msg.reply:  # type: ignore[attr-defined]
            return
        if not seen:
            began = time.perf_counter()
        await nc.publish(msg.reply)  # type: ignore[attr-defined]
        seen += 1
        out -= 1
        if out <= 2 * batch and seen + out < count:
            out += batch
            await nc.publish(pull, request, reply=inbox)
        if seen >= count:
            done.set()

    await nc.subscribe(inbox, cb=on_message, pending_msgs_limit=0, pending_bytes_limit=0)
    for _ in range(3):
        out += batch
        await nc.publish(pull, request, reply=inbox)
    await done.wait()
    took = time.perf_counter() - began
    await nc.close()
    return took


async def fetch(url: str, group: str, count: int) -> float:
    """nats-py's own `fetch(100)`, each message acked."""
    nc = await _nats(url)
    await _durable(nc, group)
    subscription = await nc.jetstream().pull_subscribe_bind(group, STATION)
    seen, began = 0, time.perf_counter()
    while seen < count:
        for msg in await subscription.fetch(100, timeout=5):
            await msg.ack()
            seen += 1
    took = time.perf_counter() - began
    await nc.close()
    return took


CONTENDERS: dict[str, Callable[[str, str, int], Awaitable[float]]] = {
    "memphis-worker": worker,
    "hand-tuned nats-py": tuned,
    "nats-py fetch(100)": fetch,
}


async def _nats(url: str) -> nats.NATS:
    options = ConnectOptions.from_url(url, env={})
    return await nats.connect(f"nats://{options.host}:{options.data_port}", token=options.connection_token)


async def _durable(nc: nats.NATS, group: str) -> None:
    config = ConsumerConfig(
        durable_name=group, ack_policy=AckPolicy.EXPLICIT, ack_wait=30, filter_subject=SUBJECT, max_ack_pending=-1
    )
    await nc.jetstream().add_consumer(STATION, config)


async def _fill(url: str, count: int) -> None:
    session = await connector(ConnectOptions.from_url(url, env={}))()
    await session.plane.create_station(STATION, StationOptions(storage_type="memory"))
    await session.close()
    nc = await _nats(url)
    for number in range(count):
        await nc.publish(SUBJECT, BODY, headers={**HEADERS, "Nats-Msg-Id": str(number)})
        if number % 1000 == 999:
            await nc.flush()
    while (await nc.jetstream().stream_info(STATION)).state.messages < count:
        await asyncio.sleep(0.05)
    await nc.close()


async def compare(count: int, rounds: int) -> int:
    rates: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    async with EmbeddedBroker() as broker:
        await _fill(broker.url, count)
        for number in range(rounds + 1):
            for at, name in enumerate(CONTENDERS):
                command = [sys.executable, "-m", "benchmarks.throughput", "--one", name, "--url", broker.url]
                command += ["--group", f"g{number}_{at}", "--count", str(count)]
                child = await asyncio.create_subprocess_exec(
                    *command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
                )
                async with asyncio.timeout(120):
                    printed, _ = await child.communicate()
                if child.returncode:
                    raise SystemExit(f"{name} failed: {' '.join(command)}")
                if number:  # the first round warms up
                    rates[name].append(count / float(printed.split()[-1]))
    medians = {name: statistics.median(each) for name, each in rates.items()}
    ours = medians["memphis-worker"]
    print(f"{count} messages of {len(BODY)} bytes, {rounds} rounds, one process each, medians")
    print(f"{'':22}{'msg/s':>10}{'us/msg':>10}{'ours is':>10}")
    for name, rate in medians.items():
        print(f"{name:22}{rate:>10.0f}{1e6 / rate:>10.1f}{ours / rate:>9.2f}x")
    tuned_ratio, fetch_ratio = ours / medians["hand-tuned nats-py"], ours / medians["nats-py fetch(100)"]
    good = tuned_ratio >= 1.1 and fetch_ratio >= 3
    print(f"wanted: >= 1.10x and >= 3.00x: {'reached' if good else 'MISSED'}")
    return 0 if good else 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", choices=list(CONTENDERS))
    parser.add_argument("--url")
    parser.add_argument("--group")
    chosen = parser.parse_args()
    if chosen.one:
        print(asyncio.run(CONTENDERS[chosen.one](chosen.url, chosen.group, chosen.count)))  # type: ignore[arg-type]
    else:
        sys.exit(asyncio.run(compare(chosen.count, chosen.rounds)))


if __name__ == "__main__":
    main()
