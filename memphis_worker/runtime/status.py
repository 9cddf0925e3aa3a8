"""What the process says of itself: plain values, written by the loop and read by the health thread without a lock."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["State", "Status"]

State = Literal["starting", "running", "draining", "stopped"]


@dataclass(slots=True)
class Status:
    """A snapshot at any moment. Instants are `time.monotonic()` seconds."""

    app: str = "app"
    state: State = "starting"
    imported: bool = False
    """Whether the app is imported and its lifespan entered."""
    connected: bool = False
    disconnected_since: float = field(default_factory=time.monotonic)
    heartbeat: float = field(default_factory=time.monotonic)
    """When the event loop last had a turn for us, every 250 ms."""
    groups: int = 0
    """Consumer groups that this process should pull from."""
    bound: int = 0
    silent: tuple[str, ...] = ()
    """Groups that the broker has stopped answering for."""
    unrecorded: int = 0
    """Dead letters in a row that could not be recorded."""
