"""`memphis-worker dev`: a broker on this machine, and a worker on it that follows its source."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from memphis_worker.cli.params import DEFAULT_TOKEN, Decorator, app_flags, flag, log_flags
from memphis_worker.cli.reload import SourceFolder, StopSignals, WorkerProcess, keep_running
from memphis_worker.embedded import EmbeddedBroker
from memphis_worker.embedded.thread import BrokerThread
from memphis_worker.errors import AppNotFound, InvalidOption
from memphis_worker.options import ENV_PREFIX

__all__ = ["dev"]

PORTS = {"management_port": 5555, "tcp_port": 6666, "data_port": 7766}

EPILOG = """\b
Examples:
  memphis-worker dev
  memphis-worker dev shop.main:app
  memphis-worker dev --dir ./broker-data --tcp-port 6667

Options of the worker are its environment variables: MEMPHIS_WORKER_CONCURRENCY=5 memphis-worker dev shop.main:app"""


def _port_flag(name: str, use: str) -> Decorator:
    long = "--" + name.replace("_", "-")
    return flag(long, type=click.IntRange(0, 65535), default=PORTS[name], help=f"{use}; 0 takes a free one.")


@click.command(epilog=EPILOG)
@click.argument("app", required=False)
@_port_flag("management_port", "Port of the broker's HTTP API")
@_port_flag("tcp_port", "Port where clients sign in")
@_port_flag("data_port", "Port of the messages")
@flag("--dir", "directory", type=click.Path(path_type=Path), default=None, help="Keep messages here.")
@flag("--token", default=DEFAULT_TOKEN, help="The token that clients sign in with.")
@flag("--http", default="127.0.0.1:9090", metavar="HOST:PORT", help="Metrics and health of the worker.")
@flag("--no-http", is_flag=True, help="No metrics and no health.")
@app_flags
@log_flags("info", to_stdout=True)
def dev(
    app: str | None,
    directory: Path | None,
    token: str,
    http: str,
    no_http: bool,
    app_dir: str,
    factory: bool,
    logging: Callable[..., None],
    management_port: int,
    tcp_port: int,
    data_port: int,
) -> int:
    """Start a broker on this machine, and with APP a worker on it.

    The broker needs no Docker and no other service. The worker is started again whenever a .py file below --app-dir
    changes. Ctrl-C ends both.
    """
    if not token:
        raise InvalidOption("--token is empty; the broker needs one")
    if app is not None and not Path(app_dir).is_dir():
        raise AppNotFound(f"--app-dir {app_dir!r} is no folder")
    broker = EmbeddedBroker(
        directory=directory, token=token, management_port=management_port, tcp_port=tcp_port, data_port=data_port
    )
    with StopSignals() as asked, BrokerThread(broker) as url:
        click.echo(_welcome(url, token, app, directory))
        if app is None:
            asked.wait()
            return 0
        worker = WorkerProcess(_worker_command(app, app_dir, factory, http, no_http), _environment(url))
        try:
            keep_running(worker, SourceFolder(Path(app_dir)), asked)
        finally:
            worker.stop()
            worker.close()
    return 0


def _worker_command(app: str, app_dir: str, factory: bool, http: str, no_http: bool) -> list[str]:
    given = click.get_current_context().params
    command = [sys.executable, "-m", "memphis_worker", "run", app, "--app-dir", app_dir]
    command += ["--no-http"] if no_http else ["--http", http]
    command += ["--factory"] if factory else []
    command += ["--log-level", given["log_level"]]
    return command + (["--log-format", given["log_format"]] if given["log_format"] else [])


def _environment(url: str) -> dict[str, str]:
    """The URL holds the token, and arguments can be read by everybody on the machine."""
    kept = {name: value for name, value in os.environ.items() if name != ENV_PREFIX + "PASSWORD"}
    return {**kept, ENV_PREFIX + "URL": url, "PYTHONUNBUFFERED": "1"}


def _welcome(url: str, token: str, app: str | None, directory: Path | None) -> str:
    before, _, ports = url.partition("?")
    defaults = "&".join(f"{name}={port}" for name, port in PORTS.items())
    secret = token if token == DEFAULT_TOKEN else "TOKEN"
    shown = f"memphis://root:{secret}@{before.rpartition('@')[2]}" + ("" if ports == defaults else f"?{ports}")
    usual = shown == f"memphis://root:{DEFAULT_TOKEN}@127.0.0.1"
    kept = f"kept in {directory}" if directory else "gone when it ends (--dir keeps them)"
    lines = [
        "",
        f"  A Memphis broker is running:  {shown}",
        f"  Its messages are {kept}",
        "",
        "  Try, in another terminal:",
        *([] if usual else [f"    export MEMPHIS_WORKER_URL='{shown}'"]),
        f"    memphis-worker run {app or 'your_module:app'}",
        "    memphis-worker send orders '{\"id\": 1}' --create",
        "    memphis-worker lag",
        "",
        "  Ctrl-C ends it.",
        "",
    ]
    return "\n".join(lines)
