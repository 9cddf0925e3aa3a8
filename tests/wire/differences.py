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

_OUTAGE = "the embedded nats-server is never down for long: it is started again at once"
_DATABASE = "there is no database"
_NATS = "nats-server alone, in its own time; the wire compares what the control plane makes of it"

NOT_REPLAYED: dict[str, str] = {
    "12 simultaneous creates of one name: status codes (3 rounds)": "a race; its counts depend on the database",
    "aftermath of 12 simultaneous createConsumer calls that auto-created one station 12 times": "the same race",
    "close the socket, reconnect with the same id after a delay: how often the connection ends inactive": "a race",
    "zombie timeline (seconds after connect; the sweep runs every 30 s of broker uptime)": _TIMED,
    "name stays taken after a broker restart (SIGTERM) when the old client does not come back": _TIMED,
    "sdk 0.1.5: 16 minutes on the control channel (ping every 60 s, refresh at 900 s)": _TIMED,
    "connect: NATS server is down": _OUTAGE,
    "connect: database is down": _DATABASE,
    "database goes down during a session": _DATABASE,
    "createStation: NATS down": _OUTAGE,
    "createProducer: NATS down, station exists": _OUTAGE,
    "createProducer: NATS down, station missing": _OUTAGE,
    "createConsumer: NATS down, new group": _OUTAGE,
    "destroyConsumer: NATS down": _OUTAGE,
    "removeStation: NATS down": _OUTAGE,
    "getStationOverviewData: NATS down": _OUTAGE,
    "getMessageDetails: NATS down": _OUTAGE,
    "createStation: NATS back": _OUTAGE,
    "createConsumer: NATS back, group record made while NATS was down: durable is not made": _OUTAGE,
    "createFactory: database is down": _DATABASE,
    "login: database is down": _DATABASE,
    "delivery 1 of 2 (headers of a produced message)": _NATS,
    "delivery 2 of 2": _NATS,
    "pull after the last delivery (no_wait)": _NATS,
    "advisory after exhausted deliveries": _NATS,
    "advisories of 10 exhausted messages": _NATS,
    "timeline: no_wait pulls, ack wait 1 s, 2 deliveries, text message": _NATS,
    "timeline: one waiting pull of 10, ack wait 1 s, 2 deliveries": _NATS,
    "message deleted from the stream before the advisory": _NATS,
    "dedup: station dd1 (window 1500 ms), same Nats-Msg-Id again after 2.0 s": _NATS,
    "dedup: station dd0 (dedup off), same Nats-Msg-Id again after 0.3 s": _NATS,
    "deliveries exhausted while the broker was down (NATS up)": _OUTAGE,
}
"""Scenario -> reason."""
