"""How an exception is put into words: no local variable, no control character, never more than 512 bytes of its text.

The text of a user's exception may hold parts of a payload, and whatever a stranger put into that.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator

import structlog

__all__ = ["TEXT_BYTES", "describe", "failure", "written"]

TEXT_BYTES = 512


def failure(error: BaseException) -> dict[str, object]:
    """The key of a log line that carries the traceback: `log.error("x.failed", **failure(exc))`.

    Where the program has configured structlog, its own way of writing exceptions is used (the worker's is `written`).
    structlog's default, with `rich` installed, prints the locals of every frame: there it is plain text instead.
    """
    if structlog.is_configured():
        return {"exc_info": error}
    return {"exception": written(error)}


def describe(error: BaseException) -> str:
    """Class and text of an exception, printable and at most 512 bytes: fit for a header and a log."""
    try:
        words = str(error)
    except BaseException:  # noqa: BLE001 - a user's __str__
        words = "(its text cannot be read)"
    text = f"{type(error).__name__}: {words}" if words else type(error).__name__
    printable = "".join(c if c.isprintable() else " " for c in text[:TEXT_BYTES])
    return printable.encode("utf-8", "replace")[:TEXT_BYTES].decode("utf-8", "ignore")


def written(error: BaseException) -> str:
    """The traceback as text, causes first, each exception described."""
    return "\n".join(_lines(error, set()))


def _lines(error: BaseException, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and id(cause) not in seen:
        yield from _lines(cause, seen)
        yield "which led to:"
    if error.__traceback__ is not None:
        yield "Traceback (most recent call last):"
        yield "".join(traceback.format_tb(error.__traceback__)).rstrip()
    yield describe(error)
    for each in getattr(error, "exceptions", ()):
        if isinstance(each, BaseException) and id(each) not in seen:
            yield "of which one is:"
            yield from _lines(each, seen)
