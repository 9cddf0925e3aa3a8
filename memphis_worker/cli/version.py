"""`memphis-worker version`: ours, and of what we stand on."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata

import click

import memphis_worker
from memphis_worker.cli.params import as_json
from memphis_worker.cli.table import show
from memphis_worker.embedded.binary import find_nats_server
from memphis_worker.errors import MissingExtra

__all__ = ["version"]


@click.command()
@as_json
def version(as_json: bool) -> None:
    """Show the versions of memphis-worker, Python, nats-py and nats-server."""
    found = {
        "memphis-worker": memphis_worker.__version__,
        "python": platform.python_version(),
        "nats-py": metadata.version("nats-py"),
        "nats-server": _nats_server(),
    }
    rows = [{"name": name, "version": each} for name, each in found.items()]
    show(rows, as_json=as_json, columns=("name", "version"), empty="")


def _nats_server() -> str | None:
    """The embedded broker's; `None` where it is not installed."""
    try:
        program = find_nats_server()
        said = subprocess.run(  # noqa: S603 - the program that was found
            [str(program), "--version"], capture_output=True, text=True, timeout=10, check=True
        )
    except (MissingExtra, OSError, subprocess.SubprocessError):
        return None
    return said.stdout.rpartition("v")[2].strip()
