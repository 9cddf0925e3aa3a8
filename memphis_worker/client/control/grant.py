"""What a classic broker answers to a sign-in: an id and a token, or one line of plain text.

Texts of Memphis broker v0.3.0 (`tcp_server/tcp_server.go`), seen on a real one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from memphis_worker.errors import AuthenticationFailed, BrokerRefused, MemphisWorkerError, NotReachable

__all__ = ["Grant", "read_grant"]

#: Plain texts that answer a sign-in, in lower case, and that no second attempt can change.
_UNAUTHENTICATED = ("user is not exist", "please use a user of type", "authorization violation", "connect with")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a sign-in gives."""

    connection_id: str
    access_token: str = field(repr=False)
    token_life_s: float
    ping_interval_s: float


def read_grant(reply: bytes, where: str) -> Grant:
    """The answer to a sign-in. Raises AuthenticationFailed, BrokerRefused, NotReachable with the broker's words."""
    if reply.startswith(b"INFO "):
        raise BrokerRefused(
            f"{where} is a native Memphis broker (0.3.5 or newer), which this version does not speak yet; "
            "use a broker up to 0.3.0"
        )
    try:
        found: object = json.loads(reply)
    except (ValueError, RecursionError):
        raise _refusal(reply, where) from None
    try:
        if not isinstance(found, dict):
            raise TypeError
        return Grant(
            connection_id=str(found["connection_id"]),
            access_token=str(found["access_token"]),
            token_life_s=float(found["access_token_exp"]) / 1000,
            ping_interval_s=float(found["ping_interval_ms"]) / 1000,
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        raise BrokerRefused(f"{where} answered the sign-in with something that is no Memphis reply") from None


def _refusal(reply: bytes, where: str) -> MemphisWorkerError:
    if not reply:
        return NotReachable(f"{where} closed the connection without an answer; is it Memphis's tcp_port?")
    if reply.startswith(b"{"):  # Its words stay out of the text: a token may be among them.
        return NotReachable(f"{where} broke off in the middle of its answer to the sign-in")
    if reply.startswith((b"HTTP/", b"-ERR")):
        return BrokerRefused(f"{where} does not speak Memphis's control protocol; check tcp_port (default 6666)")
    words = reply[:200].decode("utf-8", "replace").strip()
    lowered = words.lower()
    if any(text in lowered for text in _UNAUTHENTICATED):
        return AuthenticationFailed(f"{where} refused the sign-in: {words}; check username and connection_token")
    if lowered.startswith("server error"):
        return NotReachable(f"{where} cannot take sign-ins now: {words}")
    return BrokerRefused(f"{where} refused the sign-in: {words}")
