"""A traceback in a log never carries a payload."""

from __future__ import annotations

import pytest
import structlog

from memphis_worker.failure import failure, written


def raised() -> ValueError:
    try:
        payload = b"a secret body"
        raise ValueError(len(payload))
    except ValueError as exc:
        return exc


def test_without_configuration_the_traceback_is_text_without_locals() -> None:
    assert not structlog.is_configured()
    text = failure(raised())["exception"]
    assert isinstance(text, str)
    assert text.startswith("Traceback")
    assert text.endswith("ValueError: 13")
    assert "secret" not in text.replace('payload = b"a secret body"', "")


def test_a_configured_program_writes_exceptions_its_own_way() -> None:
    error = raised()
    structlog.configure()
    try:
        assert failure(error) == {"exc_info": error}
    finally:
        structlog.reset_defaults()


def test_an_unconfigured_logger_prints_no_locals(capsys: pytest.CaptureFixture[str]) -> None:
    structlog.get_logger().error("x.failed", **failure(raised()))
    printed = capsys.readouterr().out
    assert "ValueError: 13" in printed
    assert "locals" not in printed


def test_an_exception_in_a_log_is_short_and_cannot_forge_a_line() -> None:
    text = written(ValueError("x\n2026-01-01 [info] worker.stopped \x1b[31m" + "y" * 5000))
    assert "\n" not in text
    assert "\x1b" not in text
    assert len(text.encode()) <= 512


def test_causes_come_first_and_groups_are_told_apart() -> None:
    try:
        try:
            raise OSError("the disk")
        except OSError as exc:
            raise ValueError("the order") from exc
    except ValueError as exc:
        text = written(exc)
    assert text.index("OSError: the disk") < text.index("which led to:") < text.index("ValueError: the order")
    group = written(ExceptionGroup("two", [KeyError("a"), KeyError("b")]))
    assert group.count("of which one is:") == 2
