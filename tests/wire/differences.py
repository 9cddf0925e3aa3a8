"""Where the embedded broker is known not to agree with the recordings, and why; what cannot be replayed, and why."""

from __future__ import annotations

ALLOWED: dict[str, str] = {
    "{'max_ack_time_ms': 10000000000000}": (
        "nats-server 2.15 refuses the negative ack wait of an overflow, 2.8.4 took it; createConsumer is a 200 in both"
    ),
    "getSysLogs: 1 hour (only the first 4 of the list kept)": (
        "a line is listed at once; the real broker's appeared up to 40 s late, so that its newest was still missing"
    ),
    "socket.io: polling handshake": "live data of the UI; no client needs them",
    "socket.io: no token": "live data of the UI; no client needs them",
}
"""Scenario -> reason. One that agrees, or is not in the recordings, fails the test."""

_TIMED = "a timeline of minutes; test_embedded_presence.py drives the sweep itself"

NOT_REPLAYED: dict[str, str] = {
    "12 simultaneous creates of one name: status codes (3 rounds)": "a race; its counts depend on the database",
    "aftermath of 12 simultaneous createConsumer calls that auto-created one station 12 times": "the same race",
    "close the socket, reconnect with the same id after a delay: how often the connection ends inactive": "a race",
    "zombie timeline (seconds after connect; the sweep runs every 30 s of broker uptime)": _TIMED,
    "name stays taken after a broker restart (SIGTERM) when the old client does not come back": _TIMED,
    "sdk 0.1.5: 16 minutes on the control channel (ping every 60 s, refresh at 900 s)": _TIMED,
    "connect: NATS server is down": "nats-server is started again at once",
    "connect: database is down": "there is no database",
    "database goes down during a session": "there is no database",
}
"""Scenario -> reason. Beside these, part E of http.jsonl: instances that were killed or cut off."""
