"""Command-line options made from the records of options.py: default, meaning and environment variable in one place."""

from __future__ import annotations

import ast
import functools
import inspect
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, get_args, get_origin, get_type_hints

import click

from memphis_worker import options as records
from memphis_worker.errors import InvalidOption
from memphis_worker.observability import logging as logs
from memphis_worker.options import ENV_PREFIX, ConnectOptions, StationOptions, WorkerOptions

__all__ = [
    "DEFAULT_TOKEN",
    "Decorator",
    "app_flags",
    "as_json",
    "broker_flags",
    "connect_options",
    "flag",
    "log_flags",
    "station_flags",
    "url_flag",
    "worker_flags",
]

#: What click takes and gives: a command, with or without its options.
Command = Callable[..., Any]
Decorator = Callable[[Command], Command]

#: The token of Memphis's own compose file, and of `memphis-worker dev`.
DEFAULT_TOKEN = "memphis"  # noqa: S105 - public, for a broker on this machine
_CHOICES = {
    "retention_type": ("message_age_sec", "messages", "bytes"),
    "storage_type": ("file", "memory"),
}


class _Names(click.ParamType[tuple[str, ...]]):
    """`a,b` as ("a", "b")."""

    name = "names"

    def convert(
        self, value: str | tuple[str, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(part for part in (each.strip() for each in value.split(",")) if part)


def _finite(context: click.Context, parameter: click.Parameter, value: float) -> float:
    if not math.isfinite(value):  # nan is in every range
        raise click.BadParameter(f"{value} is no number of seconds")
    return value


def flag(*names: str, **settings: Any) -> Decorator:
    """A click option that is also `MEMPHIS_WORKER_<FLAG>`."""
    long = next(name for name in names if name.startswith("--")).split("/")[0]
    variable = ENV_PREFIX + long.removeprefix("--").replace("-", "_").upper()
    return click.option(*names, **{"envvar": variable, "show_default": settings.get("default") is not None, **settings})


def option_of(record: type, field: str, *short: str, **settings: Any) -> Decorator:
    """The flag of one field: `shutdown_timeout_s` is `--shutdown-timeout`, with the field's default and docstring."""
    (found,) = (each for each in fields(record) if each.name == field)
    default = None if found.default is MISSING else found.default
    kind = _kind(get_type_hints(record)[field], field)
    texts = {"help": _documented(record)[field], "default": default, "type": kind, **settings}
    long = "--" + field.removesuffix("_s").replace("_", "-")
    if kind is bool:
        del texts["type"]
        texts["is_flag"] = True
        texts["show_default"] = False
    if default == () or default == "":
        texts["show_default"] = False
    return flag(*short, long, field, **texts)


def _kind(hint: object, field: str) -> Any:
    if field in _CHOICES:
        return click.Choice(_CHOICES[field])
    if get_origin(hint) is tuple:
        return _Names()
    kinds = [each for each in (get_args(hint) or (hint,)) if each is not type(None)]
    return kinds[0]


@functools.cache
def _documented(record: type) -> Mapping[str, str]:
    """The docstring under each field: Python keeps them in the source alone."""
    found: dict[str, str] = {each.name: "" for each in fields(record)}
    try:
        source = inspect.getsource(records)
    except OSError:  # installed without sources
        return found
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name == record.__name__:
            for above, below in zip(node.body, node.body[1:], strict=False):
                text = _constant(below)
                if isinstance(above, ast.AnnAssign) and isinstance(above.target, ast.Name) and isinstance(text, str):
                    found[above.target.id] = " ".join(text.replace("`", "").split())
    return found


def _constant(node: ast.stmt) -> object:
    return node.value.value if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) else None


def _stacked(decorators: list[Decorator], function: Command) -> Command:
    for decorate in reversed(decorators):
        function = decorate(function)
    return function


# ------------------------------------------------------------------ one group of flags for each record


def worker_flags(function: Command) -> Command:
    """Hands the command `options`, a WorkerOptions."""
    names = ("handlers", "exclude", "concurrency", "http", "shutdown_timeout_s", "stall_timeout_s", "name")

    @functools.wraps(function)
    def command(**given: Any) -> Any:
        found = {name: given.pop(name) for name in names}
        if given.pop("no_http"):
            found["http"] = None
        return function(options=WorkerOptions(**found), **given)

    decorators: list[Decorator] = [
        option_of(WorkerOptions, "handlers", "-H", metavar="A,B"),
        option_of(WorkerOptions, "exclude", "-X", metavar="A,B"),
        option_of(WorkerOptions, "concurrency", "-c"),
        option_of(WorkerOptions, "http", metavar="HOST:PORT", help="Where metrics and health are served."),
        flag("--no-http", is_flag=True, help="Serve no metrics and no health."),
        option_of(WorkerOptions, "shutdown_timeout_s", metavar="SECONDS"),
        option_of(WorkerOptions, "stall_timeout_s", metavar="SECONDS"),
        option_of(WorkerOptions, "name"),
    ]
    return _stacked(decorators, command)


def station_flags(function: Command) -> Command:
    """Hands the command `options`, a StationOptions."""
    names = tuple(each.name for each in fields(StationOptions))

    @functools.wraps(function)
    def command(**given: Any) -> Any:
        return function(options=StationOptions(**{name: given.pop(name) for name in names}), **given)

    return _stacked([option_of(StationOptions, name) for name in names], command)


def app_flags(function: Command) -> Command:
    """`--app-dir` and `--factory`."""
    decorators: list[Decorator] = [
        flag("--app-dir", default=".", metavar="DIR", help="Put on the import path first."),
        flag("--factory", is_flag=True, help="APP names a function that returns the App."),
    ]
    return _stacked(decorators, function)


def broker_flags(function: Command) -> Command:
    """`--url`, and `--timeout` of the commands that give up."""
    decorators: list[Decorator] = [
        url_flag,
        flag(
            "--timeout", type=click.FloatRange(min=0, min_open=True, max=86_400), default=5.0, metavar="SECONDS",
            callback=_finite,
            help="Give up when the broker has not answered for so long.",
        ),
    ]  # fmt: skip
    return _stacked(decorators, function)


def url_flag(function: Command) -> Command:
    """`--url`."""
    text = "The broker: memphis://USER:TOKEN@HOST or embedded:  [default: the App's url, else memphis://localhost]"
    return flag("--url", default=None, metavar="URL", help=text)(function)


def log_flags(level: str, *, to_stdout: bool = False) -> Decorator:
    """`--log-level` and `--log-format`; logs are configured before the command begins.

    The command gets `logging`, which configures again with the names that are known only later.
    """

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def command(log_level: str, log_format: logs.Format | None, **given: Any) -> Any:
            levels = logs.levels_from(os.environ.get(ENV_PREFIX + "LOG_LEVELS", ""))
            configure = functools.partial(
                logs.configure, log_level, log_format, levels=levels, stream=sys.stdout if to_stdout else sys.stderr
            )
            configure()
            return function(**given, **({"logging": configure} if to_stdout else {}))

        decorators: list[Decorator] = [
            flag("--log-level", type=click.Choice(logs.LEVELS, case_sensitive=False), default=level, help="How much."),
            flag(
                "--log-format", type=click.Choice(logs.FORMATS), default=None,
                help="[default: text on a terminal, else json]",
            ),
        ]  # fmt: skip
        return _stacked(decorators, command)

    return decorate


as_json = flag("--json", "as_json", is_flag=True, help="One JSON list of objects on stdout.")


def connect_options(url: str | None, app_url: str | None = None) -> ConnectOptions:
    """Of `--url` (or its variable), else the App's, else memphis://localhost; the rest from the environment.

    When nothing at all says where the broker is and who signs in, it is the broker of `memphis-worker dev`.
    Raises InvalidURL, InvalidOption.
    """
    named = url or app_url
    said = [each for each in ("HOST", "CONNECTION_TOKEN", "PASSWORD") if os.environ.get(ENV_PREFIX + each)]
    if named is None and not said:
        return ConnectOptions.from_url(None, {**os.environ, ENV_PREFIX + "CONNECTION_TOKEN": DEFAULT_TOKEN})
    if url is not None and not url.strip():
        raise InvalidOption("--url is empty")
    return ConnectOptions.from_url(named)
