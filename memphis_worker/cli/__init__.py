"""The command line: `memphis-worker`. One file for each command; `main` is the console script."""

from __future__ import annotations

from collections.abc import Sequence

import click

import memphis_worker
from memphis_worker.cli.check import check
from memphis_worker.cli.dev import dev
from memphis_worker.cli.handlers import handlers
from memphis_worker.cli.lag import lag
from memphis_worker.cli.loop import exit_within
from memphis_worker.cli.outcome import PROG, finish
from memphis_worker.cli.run import run
from memphis_worker.cli.send import send
from memphis_worker.cli.stations import stations
from memphis_worker.cli.version import version

__all__ = ["cli", "invoke", "main"]

#: What threads that are no daemons get after the end of all work [s].
EXIT_S = 2.0

_SECTIONS = {
    "Run": ("dev", "run"),
    "Look at an app": ("check", "handlers"),
    "Use the broker": ("send", "lag", "stations"),
    "More": ("version",),
}

EPILOG = """\b
Start here, with two terminals:
  memphis-worker dev examples.app:app
  memphis-worker send orders '{"id": 1}'

Each command has its own --help."""


class _Sections(click.Group):
    """A group whose help lists the commands by what they are for."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(70)) for name in names])


@click.group(cls=_Sections, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(memphis_worker.__version__, prog_name=PROG, message="%(prog)s %(version)s")
def cli() -> None:
    """Runs Python functions on the messages of a Memphis broker.

    You decorate a function with @app.handler(station="orders"); the worker calls it for each message of that station
    and makes sure that none is lost: what fails is tried again, and what fails for good is kept aside. Without a
    broker of your own, `memphis-worker dev` starts one on this machine.
    """


for _command in (dev, run, check, handlers, send, lag, stations, version):
    cli.add_command(_command)


def invoke(args: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code; errors are on stderr, one line each."""
    return finish(lambda: cli.main(args, prog_name=PROG, standalone_mode=False))


def main() -> int:
    """The console script: `invoke`, and then the end of the process, whoever's threads still run."""
    code = invoke()
    exit_within(EXIT_S, code)
    return code
