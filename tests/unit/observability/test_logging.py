from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from memphis_worker.errors import InvalidOption
from memphis_worker.observability.logging import Repeats, configure, levels_from


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """What was configured before."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("httpx", "httpcore", "asyncio", "loud", "shop"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    structlog.reset_defaults()


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_ours_and_the_standard_librarys_take_the_same_way(out: io.StringIO) -> None:
    configure("info", "json", stream=out, app="shop", worker="w1")
    structlog.get_logger("shop.main").info("order.billed", amount=3)
    logging.getLogger("shop.other").warning("low on %s", "paper", extra={"left": 2})
    ours, theirs = lines(out)
    assert list(ours)[:4] == ["timestamp", "level", "event", "logger"]
    assert ours["timestamp"].endswith("Z")
    assert (ours["level"], ours["event"], ours["logger"], ours["amount"]) == ("info", "order.billed", "shop.main", 3)
    assert (ours["app"], ours["worker"]) == ("shop", "w1")
    assert (theirs["level"], theirs["event"], theirs["logger"], theirs["left"]) == (
        "warning", "low on paper", "shop.other", 2,
    )  # fmt: skip
    assert theirs["app"] == "shop"


def test_nothing_set_is_text_on_a_terminal_and_json_elsewhere(out: io.StringIO) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    configure(stream=terminal)
    structlog.get_logger("x").info("hello.said")
    assert "hello.said" in terminal.getvalue()
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(terminal.getvalue())
    configure(stream=out)
    structlog.get_logger("x").info("hello.said")
    assert [line["event"] for line in lines(out)] == ["hello.said"]
    assert terminal.getvalue().count("hello.said") == 1


def test_secrets_are_masked_at_any_depth(out: io.StringIO) -> None:
    configure("info", "json", stream=out)
    structlog.get_logger("x").info(
        "made", connection_token="abc1", headers={"Authorization": "abc2", "deep": {"nkey_seed": "abc3"}}, user="root"
    )
    logging.getLogger("y").info("hi", extra={"password": "abc4"})
    assert "abc" not in out.getvalue()
    first, second = lines(out)
    assert (first["connection_token"], first["user"], second["password"]) == ("***", "root", "***")
    assert first["headers"] == {"Authorization": "***", "deep": {"nkey_seed": "***"}}


@pytest.mark.parametrize("format", ["json", "text"])
def test_a_traceback_has_no_local_variables(out: io.StringIO, format: Any) -> None:
    configure("info", format, stream=out)
    payload = "".join(["pay", "load"])
    try:
        len(payload) / 0
    except ZeroDivisionError:
        structlog.get_logger("x").exception("it.failed")
        logging.getLogger("y").exception("that failed")
    assert out.getvalue().count("ZeroDivisionError") >= 2
    assert "payload" not in out.getvalue().replace("len(payload)", "")
    if format == "json":
        assert lines(out)[0]["exception"][0]["frames"][0]["name"] == "test_a_traceback_has_no_local_variables"


def test_levels_hold_by_logger_and_chatty_libraries_are_quiet(out: io.StringIO) -> None:
    configure("info", "json", stream=out, levels={"loud": "error", "shop": "debug"})
    for name in ("httpx", "httpcore.http11", "asyncio", "loud", "shop.main", "other"):
        logging.getLogger(name).info(name)
        structlog.get_logger(name).debug(name + ".debug")
    assert [line["event"] for line in lines(out)] == ["shop.main", "shop.main.debug", "other"]


def test_repeated_connection_warnings_are_counted_and_state_changes_are_not() -> None:
    now = 0.0
    out = []
    repeats = Repeats(clock=lambda: now)

    def say(level: str = "warning", **event: object) -> None:
        try:
            out.append(repeats(None, level, {"level": level, "logger": "memphis_worker.x", **event}))
        except structlog.DropEvent:
            out.append(None)

    for _ in range(3):
        say(event="session.reconnect_failed", error="refused", attempt=1)
    say(event="session.reconnect_failed", error="timeout")
    for _ in range(2):
        say(event="broker.disconnected")
    now = 10.0
    say(event="session.reconnect_failed", error="refused", attempt=9)
    shown = [None if each is None else (each["event"], each.get("suppressed")) for each in out]
    assert shown == [
        ("session.reconnect_failed", None),
        None,
        None,
        ("session.reconnect_failed", None),
        ("broker.disconnected", None),
        ("broker.disconnected", None),
        ("session.reconnect_failed", 2),
    ]


def test_a_suppressed_line_is_not_written(out: io.StringIO) -> None:
    configure("info", "json", stream=out)
    for _ in range(5):
        structlog.get_logger("memphis_worker.x").warning("broker.error", error="E")
        logging.getLogger("nats.aio").warning("oh")
    assert [line["event"] for line in lines(out)] == ["broker.error", "oh"]


def test_levels_are_read_from_text() -> None:
    assert levels_from("nats=warning, app=DEBUG,") == {"nats": "warning", "app": "debug"}
    with pytest.raises(InvalidOption, match="'nats' is not logger=level"):
        levels_from("nats")
    with pytest.raises(InvalidOption, match="'nats=loud'"):
        levels_from("nats=loud")


def test_importing_the_package_configures_nothing() -> None:
    code = (
        "import logging, structlog, memphis_worker, memphis_worker.cli\n"
        "assert not structlog.is_configured() and not logging.getLogger().handlers"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
