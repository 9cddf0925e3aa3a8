from __future__ import annotations

from dataclasses import fields

import click
import pytest
from click.testing import CliRunner

from memphis_worker.cli import cli
from memphis_worker.cli.params import connect_options, option_of, station_flags, worker_flags
from memphis_worker.errors import InvalidOption
from memphis_worker.options import StationOptions, WorkerOptions


@click.command()
@worker_flags
def worker(options: WorkerOptions) -> None:
    click.echo(repr(options))


@click.command()
@station_flags
def station(options: StationOptions) -> None:
    click.echo(repr(options))


def test_nothing_given_is_the_records_own_defaults() -> None:
    assert CliRunner().invoke(worker, []).output.strip() == repr(WorkerOptions())
    assert CliRunner().invoke(station, []).output.strip() == repr(StationOptions())


def test_flags_become_the_record() -> None:
    arguments = ["-c", "7", "-H", "bill, ship", "--exclude", "bill", "--shutdown-timeout", "1.5", "--no-http"]
    expected = WorkerOptions(
        concurrency=7, handlers=("bill", "ship"), exclude=("bill",), shutdown_timeout_s=1.5, http=None
    )
    assert CliRunner().invoke(worker, arguments).output.strip() == repr(expected)


def test_variables_become_the_record_and_a_flag_wins() -> None:
    env = {
        "MEMPHIS_WORKER_CONCURRENCY": "3",
        "MEMPHIS_WORKER_HANDLERS": "a,b",
        "MEMPHIS_WORKER_STALL_TIMEOUT": "9",
        "MEMPHIS_WORKER_HTTP": "127.0.0.1:1",
        "MEMPHIS_WORKER_DEDUP_ENABLED": "true",
    }
    expected = WorkerOptions(concurrency=5, handlers=("a", "b"), stall_timeout_s=9.0, http="127.0.0.1:1")
    assert CliRunner().invoke(worker, ["-c", "5"], env=env).output.strip() == repr(expected)
    assert CliRunner().invoke(station, [], env=env).output.strip() == repr(StationOptions(dedup_enabled=True))


def test_what_cannot_hold_is_refused_by_the_record() -> None:
    assert isinstance(CliRunner().invoke(worker, ["-c", "0"]).exception, InvalidOption)


def test_help_and_default_are_those_of_the_field() -> None:
    @click.command()
    @option_of(WorkerOptions, "stall_timeout_s")
    def command(stall_timeout_s: float) -> None: ...

    (option,) = command.params
    assert (option.name, option.opts, option.default) == ("stall_timeout_s", ["--stall-timeout"], 30.0)
    assert isinstance(option, click.Option)
    assert option.help == "Seconds of a blocked event loop until /healthz fails."
    assert option.envvar == "MEMPHIS_WORKER_STALL_TIMEOUT"


def commands(group: click.Group) -> list[click.Command]:
    found: list[click.Command] = []
    for each in group.commands.values():
        found += commands(each) if isinstance(each, click.Group) else [each]
    return found


def test_every_flag_has_its_variable_and_a_help_text() -> None:
    for command in commands(cli):
        assert command.help
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                long = next(each for each in option.opts if each.startswith("--"))
                assert option.help, (command.name, long)
                if long != "--header":  # many values: no variable can hold them
                    assert option.envvar == "MEMPHIS_WORKER_" + long[2:].replace("-", "_").upper()


def test_every_field_of_a_station_has_its_flag() -> None:
    names = {option.name for option in cli.commands["stations"].commands["create"].params}  # type: ignore[attr-defined]
    assert {each.name for each in fields(StationOptions)} <= names


def test_the_url_comes_from_the_flag_then_the_app_then_localhost(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "HOST", "CONNECTION_TOKEN", "PASSWORD"):
        monkeypatch.delenv("MEMPHIS_WORKER_" + name, raising=False)
    assert connect_options("memphis://flag", "memphis://app").host == "flag"
    assert connect_options(None, "memphis://app").host == "app"
    assert connect_options("memphis://flag").connection_token is None
    # Nothing at all: the broker of `memphis-worker dev`.
    nothing = connect_options(None)
    assert (nothing.host, nothing.username, nothing.connection_token) == ("localhost", "root", "memphis")
    monkeypatch.setenv("MEMPHIS_WORKER_HOST", "elsewhere")
    assert (connect_options(None).host, connect_options(None).connection_token) == ("elsewhere", None)
    monkeypatch.setenv("MEMPHIS_WORKER_CONNECTION_TOKEN", "t")
    assert connect_options(None, "memphis://app").connection_token == "t"
    with pytest.raises(InvalidOption, match="--url is empty"):
        connect_options(" ")
