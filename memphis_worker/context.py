"""What a handler may ask for beside its body: the message, the app's state, whether the worker is stopping."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import SimpleNamespace

from memphis_worker.client.message import Message

__all__ = ["Context", "Produce", "State"]

#: `await produce(station, payload, headers=None, msg_id=None)`
Produce = Callable[..., Awaitable[None]]


class State(SimpleNamespace):
    """A place for what the lifespan makes and handlers use: `app.state.db = …`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Made for one message, only for a handler that asks for it."""

    message: Message
    handler: str
    state: State
    is_stopping: Callable[[], bool]

    @property
    def attempt(self) -> int:
        """Which delivery this is, from 1. A hint: a crashed worker's deliveries count too."""
        return self.message.deliveries

    @property
    def stopping(self) -> bool:
        """Whether the worker has been asked to stop: a long handler may end early by raising `Retry`."""
        return self.is_stopping()
