"""`memphis-worker run`: consumes until it is told to stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence

import click
from click.core import ParameterSource
from prometheus_client import REGISTRY

import memphis_worker
from memphis_worker.app import App
from memphis_worker.bootstrap import connector, make_runner, select_handlers
from memphis_worker.cli.connect import broker
from memphis_worker.cli.loading import load
from memphis_worker.cli.loop import run_loop
from memphis_worker.cli.params import app_flags, connect_options, flag, log_flags, url_flag, worker_flags
from memphis_worker.errors import UsageError
from memphis_worker.handler import Handler
from memphis_worker.observability import health
from memphis_worker.observability.http_server import HttpServer, Page, Request, json_page, metrics_page
from memphis_worker.observability.metrics import Metrics
from memphis_worker.options import ConnectOptions, WorkerOptions
from memphis_worker.runtime.status import Status
from memphis_worker.runtime.stop import Stop

__all__ = ["run"]

EPILOG = """\b
Examples:
  memphis-worker run shop.main:app
  memphis-worker run shop.main:app --embedded
  memphis-worker run shop.main:app --url memphis://root:TOKEN@broker -c 20 -H billing

\b
Exit codes: 0 stopped, 1 crashed, 2 bad usage or app, 3 refused by the broker,
4 stopped with unfinished work handed back. Every option is also an environment
variable: --log-level is MEMPHIS_WORKER_LOG_LEVEL. For single loggers there is
MEMPHIS_WORKER_LOG_LEVELS=nats=warning,shop=debug."""


@click.command(epilog=EPILOG)
@click.argument("app")
@url_flag
@flag("--embedded", is_flag=True, help="Start a broker of its own, gone with the worker: --url embedded:")
@worker_flags
@app_flags
@log_flags("info", to_stdout=True)
@flag("--parent-fd", type=int, default=None, hidden=True, envvar=None)
def run(
    app: str,
    url: str | None,
    embedded: bool,
    options: WorkerOptions,
    app_dir: str,
    factory: bool,
    logging: Callable[..., None],
    parent_fd: int | None,
) -> int:
    """Run the handlers of APP until it is told to stop.

    APP is module:attribute, as in shop.main:app. A broker that is not there yet is waited for. One Ctrl-C (or TERM)
    finishes what runs and ends; a second one hands it back to the broker at once.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until the event loop takes over
    try:
        target = load(app, app_dir=app_dir, factory=factory)
        logging(app=target.name, worker=options.name)
        handlers = select_handlers(target, options)
        where = connect_options(_chosen_url(url, embedded), target.url)
        return _serve(target, handlers, options, where, parent_fd)
    except KeyboardInterrupt:  # asked to stop before there was anything to stop
        return 0


def _chosen_url(url: str | None, embedded: bool) -> str | None:
    if not embedded:
        return url
    source = click.get_current_context().get_parameter_source("url")
    if url is not None and source is ParameterSource.COMMANDLINE:
        raise UsageError("both --embedded and --url are given; keep one")
    return "embedded:"


def _serve(
    app: App, handlers: Sequence[Handler], options: WorkerOptions, where: ConnectOptions, parent_fd: int | None
) -> int:
    status = Status(app=app.name)
    metrics = Metrics(handlers, options, status, version=memphis_worker.__version__)
    # Its daemon thread is left running: it answers until the process is gone.
    if options.http is not None:
        HttpServer(options.http, pages(status, handlers, options, where.url)).start()
    with broker(where) as found:
        try:
            return run_loop(_work(app, handlers, options, found, status, metrics, parent_fd))
        finally:  # All is done or handed back: one more signal must not turn the exit code into its own.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)


async def _work(
    app: App,
    handlers: Sequence[Handler],
    options: WorkerOptions,
    where: ConnectOptions,
    status: Status,
    metrics: Metrics,
    parent_fd: int | None,
) -> int:
    stop = Stop()
    stop.install()
    runner = make_runner(
        app, handlers, options, connect=connector(where), stop=stop, status=status, instruments=[metrics]
    )
    metrics.watch(runner)
    if parent_fd is not None:
        _stop_with_parent(parent_fd)
    return await runner.run()


def pages(
    status: Status, handlers: Sequence[Handler], options: WorkerOptions, broker_url: str
) -> dict[str, Callable[[Request], Page]]:
    """What `--http` serves. Each page reads the status and never waits for the event loop."""
    stall_s = options.stall_timeout_s
    version = memphis_worker.__version__
    return {
        "/healthz": json_page(lambda: health.live(status, time.monotonic(), stall_timeout_s=stall_s)),
        "/readyz": json_page(lambda: health.ready(status, time.monotonic(), stall_timeout_s=stall_s)),
        "/startupz": json_page(lambda: health.started(status)),
        "/info": json_page(
            lambda: (200, health.info(status, version=version, handlers=handlers, options=options, broker=broker_url))
        ),
        "/metrics": metrics_page(REGISTRY),
    }


def _stop_with_parent(parent_fd: int) -> None:
    """Of `dev`: the other end of this pipe closes when its process is gone, however it went."""

    def watch() -> None:
        os.read(parent_fd, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()
