from __future__ import annotations

import json
from collections.abc import Callable

import click
import pytest

from memphis_worker.cli import invoke
from memphis_worker.cli.outcome import finish, masked
from memphis_worker.cli.table import show
from memphis_worker.errors import (
    AuthenticationFailed,
    InvalidOption,
    MemphisWorkerError,
    Missing,
    NotReachable,
    PayloadTooLarge,
    PortTaken,
)


def raising(error: BaseException) -> Callable[[], object]:
    def work() -> object:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemphisWorkerError("it broke"), 1),
        (PayloadTooLarge("it broke"), 2),
        (InvalidOption("it broke"), 2),
        (PortTaken("it broke"), 2),
        (Missing("it broke"), 3),
        (NotReachable("it\n broke"), 3),
        (AuthenticationFailed("it broke"), 3),
        (click.BadParameter("it broke"), 2),
    ],
)
def test_an_error_that_was_meant_is_one_line_and_its_code(
    capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    assert finish(raising(error)) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("memphis-worker: error: ")
    assert "it broke" in err


def test_a_crash_has_its_traceback_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert finish(raising(KeyError("memphis://root:hidden@host"))) == 1
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert "raise error" in err
    assert "hidden" not in err


def test_what_a_command_returns_is_the_code() -> None:
    assert [finish(lambda: 4), finish(lambda: None), finish(lambda: "text")] == [4, 0, 0]


def test_interrupted_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert finish(raising(KeyboardInterrupt())) == 1
    assert capsys.readouterr().err == "memphis-worker: error: interrupted\n"


def test_credentials_of_urls_are_masked() -> None:
    assert masked("at memphis://root:to:ken@host?x, tls://tok@h") == "at memphis://***@host?x, tls://***@h"
    assert masked("as in memphis://USER:TOKEN@HOST") == "as in memphis://USER:TOKEN@HOST"
    assert masked("mail me@host") == "mail me@host"


def test_help_is_exit_code_0_and_no_command_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["--help"]) == 0
    helped = capsys.readouterr().out
    assert all(f"\n  {name} " in helped for name in ("run", "dev", "check", "handlers", "send", "lag", "stations"))
    assert invoke([]) == 2
    assert "Usage:" in capsys.readouterr().err
    assert invoke(["frob"]) == 2
    assert capsys.readouterr().err == ("memphis-worker: error: No such command 'frob' (see memphis-worker --help)\n")


def test_a_table_is_aligned_and_json_is_one_list(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"name": "a", "n": 5, "age": None, "x": 1}, {"name": "long", "n": 12345, "age": 1.25, "x": 2}]
    show(rows, as_json=False, columns=("name", "n", "age"), empty="nothing")
    assert capsys.readouterr().out == "NAME      N  AGE\na         5    -\nlong  12345  1.2\n"
    show(rows, as_json=True, columns=("name",), empty="nothing")
    assert json.loads(capsys.readouterr().out) == rows
    show([], as_json=True, columns=("name",), empty="nothing")
    show([], as_json=False, columns=("name",), empty="nothing")
    assert capsys.readouterr() == ("[]\n", "nothing\n")
