"""Logs: structlog and the standard library through one chain, as text or JSON lines.

Importing the package configures nothing; the command line calls `configure`. Tracebacks never hold local variables:
those are payloads and credentials.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import IO, Any, Literal, TextIO

import structlog
from structlog.types import EventDict, Processor

from memphis_worker.errors import InvalidOption
from memphis_worker.failure import TEXT_BYTES, written

__all__ = ["FORMATS", "LEVELS", "Format", "Repeats", "configure", "levels_from", "redact"]

Format = Literal["text", "json"]
FORMATS: tuple[Format, ...] = ("text", "json")
LEVELS = ("debug", "info", "warning", "error", "critical")

#: Libraries that say too much at info.
_QUIET = {"httpx": "warning", "httpcore": "warning", "asyncio": "warning"}
_SECRET = re.compile(r"(?i)password|token|secret|authorization|creds|jwt|nkey")
_FIRST_KEYS = ("timestamp", "level", "event", "logger")
#: Said again and again while a broker is down. State changes, such as `broker.disconnected`, are not among them.
_REPEATED = frozenset(
    {"broker.error", "broker.unreachable", "broker.write_failed", "broker.client_replaced", "session.reconnect_failed"}
)
REPEAT_S = 10.0
_REMEMBERED_MAX = 256
_FRAMES_MAX = 20


def configure(
    level: str = "info",
    format: Format | None = None,
    *,
    levels: Mapping[str, str] | None = None,
    app: str = "",
    worker: str = "",
    stream: IO[str] | None = None,
) -> None:
    """Sends all logs of the process to `stream` (default: stdout). A second call replaces the first.

    format:  `None`: text on a terminal, JSON otherwise.
    levels:  by logger name, for what shall differ from `level`.
    app, worker: in every line, where they are not empty.
    """
    out = sys.stdout if stream is None else stream
    as_json = format == "json" or (format is None and not out.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        _facts(app, worker, as_json),
        Repeats(),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    handler = _Handler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, redact, *_rendering(out, as_json)],
        )
    )
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name, each in {**_QUIET, **(levels or {})}.items():
        logging.getLogger(name).setLevel(each.upper())


def levels_from(text: str) -> dict[str, str]:
    """`nats=warning,app=debug` as a mapping. Raises InvalidOption."""
    found = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        name, equals, level = part.partition("=")
        if not equals or not name or level.lower() not in LEVELS:
            raise InvalidOption(f"log levels: {part!r} is not logger=level, with one of {', '.join(LEVELS)}")
        found[name] = level.lower()
    return found


class _Handler(logging.StreamHandler[IO[str]]):
    """Ours, so that a second `configure` finds it; drops a line that the chain has suppressed."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except structlog.DropEvent:
            return
        except Exception:  # noqa: BLE001 - a log line must not break what it tells of
            self.handleError(record)
            return
        try:
            self.stream.write(text + self.terminator)
            self.flush()
        except BrokenPipeError:
            _nobody_reads(self.stream)
        except Exception:  # noqa: BLE001 - as above: a full disk
            self.handleError(record)


def _nobody_reads(stream: IO[str]) -> None:
    """Whoever read the log is gone: the program is asked to stop, once, and its output goes nowhere from here on.

    What the user's handlers print goes there too, or each print would fail a message.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    os.kill(os.getpid(), signal.SIGTERM)


class Repeats:
    """Lets an identical warning about the connection through once in 10 s, with the number `suppressed` before it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[tuple[object, ...], tuple[float, int]] = {}

    def __call__(self, logger: Any, method: str, event: EventDict) -> EventDict:
        name = event.get("event")
        foreign = str(event.get("logger", "")).startswith("nats")
        if event.get("level") not in ("warning", "error") or not (name in _REPEATED or foreign):
            return event
        key = (name, event.get("error"), event.get("text"))
        now = self._clock()
        last, suppressed = self._seen.get(key, (None, 0))
        if last is not None and now - last < REPEAT_S:
            self._seen[key] = (last, suppressed + 1)
            raise structlog.DropEvent
        if len(self._seen) >= _REMEMBERED_MAX:
            self._seen.clear()
        self._seen[key] = (now, 0)
        if suppressed:
            event["suppressed"] = suppressed
        return event


def redact(logger: Any, method: str, event: EventDict) -> EventDict:
    """Replaces the value of every key that names a secret, also inside of mappings."""
    return {key: _redacted(key, value) for key, value in event.items()}


def _redacted(key: object, value: object) -> object:
    if isinstance(key, str) and key not in _FIRST_KEYS and _SECRET.search(key):
        return "***"
    if isinstance(value, Mapping):
        return {name: _redacted(name, each) for name, each in value.items()}
    return value


def _facts(app: str, worker: str, as_json: bool) -> Processor:
    """A terminal has one worker and needs no identity; a log store has many."""
    facts: dict[str, object] = {"app": app, "pid": os.getpid()} if as_json else {}
    given = {key: value for key, value in {**facts, "worker": worker}.items() if value}

    def add(logger: Any, method: str, event: EventDict) -> EventDict:
        for key, value in given.items():
            event.setdefault(key, value)
        return event

    return add


def _rendering(out: IO[str], as_json: bool) -> list[Processor]:
    if not as_json:
        return [structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=_write, sort_keys=False)]
    tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=_FRAMES_MAX)
    return [
        structlog.processors.ExceptionRenderer(tracebacks),
        _shortened,
        _ordered,
        structlog.processors.JSONRenderer(),
    ]


def _write(out: TextIO, exc_info: Any) -> None:
    out.write("\n" + written(exc_info[1]))


def _shortened(logger: Any, method: str, event: EventDict) -> EventDict:
    """The texts of exceptions, cut as everywhere."""
    for each in event.get("exception") or ():
        if isinstance(each, dict) and isinstance(each.get("exc_value"), str):
            each["exc_value"] = each["exc_value"][:TEXT_BYTES]
    return event


def _ordered(logger: Any, method: str, event: EventDict) -> EventDict:
    return {**{key: event[key] for key in _FIRST_KEYS if key in event}, **event}
