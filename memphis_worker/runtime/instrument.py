"""Instrument: watches what happens and can change nothing. A message costs it two calls, `received` and `finished`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memphis_worker.client.message import Message
from memphis_worker.failure import failure
from memphis_worker.handler import Handler
from memphis_worker.log import get_logger

__all__ = ["OUTCOMES", "REASONS", "Instrument", "Instruments"]

log = get_logger(__name__)

#: Every delivery ends in exactly one of them.
OUTCOMES = ("success", "retry", "dead_letter", "reject", "skip", "cancelled", "released")
REASONS = ("exhausted", "rejected", "undecodable", "timeout", "crashed")


class Instrument:
    """Does nothing; override what you want to see. What raises is logged and never reaches a message."""

    def received(self, handler: Handler, messages: Sequence[Message]) -> None:
        """One batch came from the broker."""

    def finished(self, handler: Handler, message: Message, outcome: str, duration_s: float) -> None:
        """A delivery has its outcome, one of OUTCOMES. `duration_s`: the handler's run time, 0 if it never ran."""

    def failed(self, handler: Handler, message: Message, error: BaseException) -> None:
        """A handler raised."""

    def dead_lettered(self, handler: Handler, message: Message, reason: str) -> None:
        """A message was recorded as a dead letter, for one of REASONS."""

    def settle_failed(self, handler: Handler, operation: str) -> None:
        """An answer to the broker could not be given: ack, nak, term, in_progress or dead_letter."""

    def state_changed(self, state: str) -> None:
        """The worker is now starting, running, draining or stopped."""

    def connection_changed(self, connected: bool) -> None:
        """The broker's data connection came or went."""


class Instruments(Instrument):
    """Several as one; for a single event only those are called that override it."""

    def __init__(self, instruments: Sequence[Instrument]) -> None:
        for event in _EVENTS:
            calls = [
                getattr(each, event)
                for each in instruments
                if getattr(type(each), event) is not getattr(Instrument, event)
            ]
            setattr(self, event, _joined(event, calls))


_EVENTS = tuple(name for name in vars(Instrument) if not name.startswith("_"))


def _joined(event: str, calls: Sequence[Callable[..., None]]) -> Callable[..., None]:
    if len(calls) == 1:
        only = calls[0]

        def one(*args: object) -> None:
            try:
                only(*args)
            except Exception as exc:  # noqa: BLE001
                log.error("instrument.failed", of=event, **failure(exc))

        return one

    def each(*args: object) -> None:
        for call in calls:
            try:
                call(*args)
            except Exception as exc:  # noqa: BLE001
                log.error("instrument.failed", of=event, **failure(exc))

    return each
