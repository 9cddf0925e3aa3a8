"""Name rules of Memphis, and the names that follow from a station's and a group's.

The rules are those of broker 0.3.0, applied after lower-casing (its table of names, seen on a real broker). It checks
some of them late or not at all (a station made by its first producer, say), so all of them are checked here first.
"""

from __future__ import annotations

import re
import secrets

from memphis_worker.errors import InvalidName

__all__ = [
    "DEAD_STATION",
    "DEFAULT_FACTORY",
    "NAME_MAX",
    "consumer_name",
    "factory_name",
    "group_name",
    "member_name",
    "producer_name",
    "resent_subject",
    "station_name",
    "station_subject",
]

#: Characters of a station, producer, consumer or group name.
NAME_MAX = 32
_FACTORY_MAX = 25
#: The factory that the broker itself puts stations into.
DEFAULT_FACTORY = "melvis"

#: Where dead letters go unless a handler says otherwise; one for each broker.
DEAD_STATION = "memphis_worker_dead"

_ALLOWED = re.compile(r"[a-z0-9_]+")
_UNIQUE_BYTES = 6


def station_name(name: str) -> str:
    """The name in lower case, as the stream is called. Raises InvalidName."""
    return _checked("station", name, NAME_MAX)


def producer_name(name: str) -> str:
    """The name in lower case. Raises InvalidName."""
    return _checked("producer", name, NAME_MAX)


def consumer_name(name: str) -> str:
    """The name in lower case. Raises InvalidName."""
    return _checked("consumer", name, NAME_MAX)


def group_name(name: str) -> str:
    """The name in lower case, as the durable is called. Raises InvalidName."""
    return _checked("consumer group", name, NAME_MAX)


def factory_name(name: str) -> str:
    """The name in lower case. Raises InvalidName."""
    return _checked("factory", name, _FACTORY_MAX)


def member_name(group: str) -> str:
    """A consumer name that no other process has: the group, cut to fit, and 12 random hex digits."""
    unique = secrets.token_hex(_UNIQUE_BYTES)
    return f"{group[: NAME_MAX - len(unique) - 1]}_{unique}"


def station_subject(station: str) -> str:
    """What producers publish to and groups filter on; the stream takes `<station>.>`."""
    return f"{station}.final"


def resent_subject(station: str, group: str) -> str:
    """Where broker 0.3.0 publishes a dead letter again for its group: core NATS, not stored, nothing to ack.

    `_` is legal in names, so `a_b` with `c` and `a` with `b_c` share a subject.
    """
    return f"$memphis_dlq_{station}_{group}"


def _checked(kind: str, name: str, longest: int) -> str:
    if not isinstance(name, str):
        raise InvalidName(f"a {kind} name is a {type(name).__name__}; it must be a str")
    lowered = name.lower()
    if not _ALLOWED.fullmatch(lowered) or len(lowered) > longest:
        raise InvalidName(f"{kind} name {name!r} is not allowed; use 1 to {longest} letters a-z, digits and _")
    return lowered
