"""Message handlers for Memphis brokers: public names only."""

from __future__ import annotations

from memphis_worker.app import App, Router
from memphis_worker.client.connection import Memphis
from memphis_worker.client.message import Message
from memphis_worker.context import Context
from memphis_worker.errors import MemphisWorkerError
from memphis_worker.options import StationOptions, retention_types, storage_types
from memphis_worker.retry import Backoff, Reject, Retry

__all__ = [
    "App",
    "Backoff",
    "Context",
    "Memphis",
    "MemphisWorkerError",
    "Message",
    "Reject",
    "Retry",
    "Router",
    "StationOptions",
    "__version__",
    "retention_types",
    "storage_types",
]

__version__ = "0.1.0"
