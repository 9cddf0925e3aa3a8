"""Who is there: connections of the control channel and the producers and consumers that stand or fall with them.

Source: Memphis 0.3.0, exchanges and timelines recorded in tests/wire/classic/tcp.jsonl.
"""

from __future__ import annotations

import time

from memphis_worker.embedded.ids import ZERO
from memphis_worker.embedded.settings import Settings
from memphis_worker.embedded.state import Connection, Consumer, State, User


class Presence:
    """Marks records active and inactive. None of this touches JetStream."""

    def __init__(self, state: State, settings: Settings) -> None:
        self._state = state
        self._settings = settings

    def connect(self, user: User, connection_id: str, address: str) -> Connection:
        """A known id lives again, whoever asks, its `last_ping` not renewed; for an unknown one a new one is made."""
        connection = None if connection_id == ZERO else self._state.connection(connection_id)
        if connection is None:
            connection = Connection(created_by_user=user.username, client_address=address)
            self._state.connections.append(connection)
        else:
            self._mark(connection, active=True)
        self._state.save()
        return connection

    def ping(self, connection: Connection) -> None:
        """Only the time is noted: a connection that was swept stays inactive."""
        connection.last_ping = time.time_ns()
        self._state.save()

    def drop(self, connection: Connection) -> None:
        """The socket is gone: everything of it is inactive at once, and the stations' histories say so."""
        for record in self._state.presences(connection.id):
            if record.is_active:
                self._tell(record, connection)
        self._mark(connection, active=False)
        self._state.save()

    def sweep(self, now_ns: int | None = None) -> None:
        """Marks connections that have not pinged for the ping interval and 5 s; no history, the socket stays open.

        The same round forgets poison messages and the broker's history when they are old.
        """
        now = time.time_ns() if now_ns is None else now_ns
        limit = now - (self._settings.ping_interval_ms + self._settings.ping_grace_ms) * 1_000_000
        for connection in self._state.connections:
            if connection.is_active and connection.last_ping < limit:
                self._mark(connection, active=False)
        poison_limit = now - int(self._settings.poison_retention_s * 1e9)
        log_limit = now - int(self._settings.system_log_retention_s * 1e9)
        self._state.poisons = [poison for poison in self._state.poisons if poison.at >= poison_limit]
        self._state.system_logs = [line for line in self._state.system_logs if line.created >= log_limit]
        self._state.save()

    def remove_user(self, user: User) -> None:
        """Everything of the user is inactive and belongs to `<name>(deleted)`."""
        gone = f"{user.username}(deleted)"
        for connection in self._state.connections:
            if connection.created_by_user == user.username:
                self._mark(connection, active=False)
        owned = (
            self._state.connections,
            self._state.producers,
            self._state.consumers,
            self._state.stations,
            self._state.factories,
        )
        for table in owned:
            for record in table:
                if record.created_by_user == user.username:
                    record.created_by_user = gone
        self._state.users.remove(user)

    def _mark(self, connection: Connection, *, active: bool) -> None:
        connection.is_active = active
        for record in self._state.presences(connection.id):
            if not record.is_deleted:
                record.is_active = active

    def _tell(self, record: object, connection: Connection) -> None:
        kind = "Consumer" if isinstance(record, Consumer) else "Producer"
        owner = self._state.user(connection.created_by_user)
        name, station_id = getattr(record, "name", ""), getattr(record, "station_id", "")
        station = next((station for station in self._state.stations if station.id == station_id), None)
        if station is not None and not station.is_deleted:
            user_type = owner.user_type if owner else ""
            message = f"{kind} {name} has been disconnected"
            self._state.audit(station, message, connection.created_by_user, user_type)
