"""Loggers of this package: events with keys, through structlog where the program has configured it.

Where it has not, they go to the standard library's logger of the module, which prints warnings to stderr and is silent
below: a library writes nothing to a program's stdout.
"""

from __future__ import annotations

import logging
from typing import Any, cast

import structlog

__all__ = ["get_logger"]


class _Logger:
    def __init__(self, name: str) -> None:
        self._name = name
        self._plain = structlog.wrap_logger(
            logging.getLogger(name),
            processors=[
                structlog.stdlib.filter_by_level,
                structlog.processors.KeyValueRenderer(key_order=["event"], repr_native_str=False),
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
        )

    def __getattr__(self, method: str) -> Any:
        return getattr(structlog.get_logger(self._name) if structlog.is_configured() else self._plain, method)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Decides at each call, so that it may be made at import."""
    return cast(structlog.stdlib.BoundLogger, _Logger(name))
