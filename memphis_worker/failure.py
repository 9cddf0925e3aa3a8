"""How an exception is put into a log line, so that no local variable, and so no payload, ever gets there."""

from __future__ import annotations

import traceback

import structlog

__all__ = ["failure"]


def failure(error: BaseException) -> dict[str, object]:
    """The key of a log line that carries the traceback: `log.error("x.failed", **failure(exc))`.

    Where the program has configured structlog, its own way of writing exceptions is used (the worker's has no locals).
    structlog's default, with `rich` installed, prints the locals of every frame: there it is plain text instead.
    """
    if structlog.is_configured():
        return {"exc_info": error}
    return {"exception": "".join(traceback.format_exception(error)).rstrip()}
