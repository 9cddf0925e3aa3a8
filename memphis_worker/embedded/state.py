"""The records of the control plane: what Memphis 0.3.0 keeps in MongoDB. Kept in a JSON file when there is a folder.

Dates are nanoseconds since 1970. A record that was removed stays, with `is_deleted`, as on the real broker.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from memphis_worker.embedded.ids import new_id
from memphis_worker.errors import InvalidOption

ROOT = "root"
APPLICATION = "application"
MANAGEMENT = "management"


@dataclass(slots=True, kw_only=True)
class User:
    """`user_type` is root, application or management; only the last has a password of its own."""

    id: str = field(default_factory=new_id)
    created: int = field(default_factory=time.time_ns)
    username: str
    user_type: str
    password: str = field(default="", repr=False)
    """Salt and hash, see `users.py`; empty when there is none."""
    hub_username: str = ""
    hub_password: str = field(default="", repr=False)
    avatar_id: int = 1
    already_logged_in: bool = False


@dataclass(slots=True, kw_only=True)
class Factory:
    """A folder of stations."""

    id: str = field(default_factory=new_id)
    created: int = field(default_factory=time.time_ns)
    name: str
    description: str = ""
    created_by_user: str
    is_deleted: bool = False


@dataclass(slots=True, kw_only=True)
class Station:
    """The record of a stream."""

    id: str = field(default_factory=new_id)
    created: int = field(default_factory=time.time_ns)
    name: str
    factory_id: str
    created_by_user: str
    retention_type: str = "message_age_sec"
    retention_value: int = 604800
    storage_type: str = "file"
    replicas: int = 1
    dedup_enabled: bool = False
    dedup_window_in_ms: int = 0
    is_deleted: bool = False


@dataclass(slots=True, kw_only=True)
class Connection:
    """A session on the control channel. `last_ping` is set by a connect that makes it and by pings, by nothing else."""

    id: str = field(default_factory=new_id)
    created: int = field(default_factory=time.time_ns)
    created_by_user: str
    client_address: str
    is_active: bool = True
    last_ping: int = field(default_factory=time.time_ns)


@dataclass(slots=True, kw_only=True)
class Producer:
    """A name that writes to a station."""

    id: str = field(default_factory=new_id)
    created: int = field(default_factory=time.time_ns)
    name: str
    type: str
    station_id: str
    connection_id: str
    created_by_user: str
    is_active: bool = True
    is_deleted: bool = False


@dataclass(slots=True, kw_only=True)
class Consumer:
    """A member of a group; the group is the durable of the station's stream. The numbers are as given."""

    id: str = field(default_factory=new_id)
    created: int = field(default_factory=time.time_ns)
    name: str
    type: str
    station_id: str
    connection_id: str
    created_by_user: str
    group: str
    max_ack_time_ms: int
    max_msg_deliveries: int
    is_active: bool = True
    is_deleted: bool = False


@dataclass(slots=True, kw_only=True)
class PoisonedGroup:
    """One group that has used up its deliveries of a message."""

    name: str
    at: int
    deliveries: int


@dataclass(slots=True, kw_only=True)
class Poison:
    """A message whose deliveries are used up, with a copy of its payload as text. `at` is renewed with each group."""

    id: str = field(default_factory=new_id)
    at: int
    station: str
    sequence: int
    producer: str
    connection_id: str
    time_sent: int
    size: int
    data: str = field(repr=False)
    groups: list[PoisonedGroup] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class AuditLog:
    """A line of a station's history."""

    id: str = field(default_factory=new_id)
    created: int = field(default_factory=time.time_ns)
    station: str
    message: str
    created_by_user: str
    user_type: str


@dataclass(slots=True, kw_only=True)
class SystemLog:
    """A line of the broker's history."""

    id: str = field(default_factory=new_id)
    created: int = field(default_factory=time.time_ns)
    log: str
    type: str = "info"


_TABLES: dict[str, Any] = {
    "users": User,
    "factories": Factory,
    "stations": Station,
    "connections": Connection,
    "producers": Producer,
    "consumers": Consumer,
    "poisons": Poison,
    "audit_logs": AuditLog,
    "system_logs": SystemLog,
}


class State:
    """All records, in the order they were made, and the two secrets that sign tokens. `path` None: nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.users: list[User] = []
        self.factories: list[Factory] = []
        self.stations: list[Station] = []
        self.connections: list[Connection] = []
        self.producers: list[Producer] = []
        self.consumers: list[Consumer] = []
        self.poisons: list[Poison] = []
        self.audit_logs: list[AuditLog] = []
        self.system_logs: list[SystemLog] = []
        self.jwt_secret = secrets.token_hex(32)
        self.refresh_secret = secrets.token_hex(32)

    def load(self) -> None:
        """Takes over what an earlier broker left. Nothing is marked inactive: the real one does not either.

        `InvalidOption` when the file is something else.
        """
        if self._path is None or not self._path.exists():
            return
        try:
            self._take_over(json.loads(self._path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidOption(f"{self._path} is not what an embedded broker left there: {error}") from error

    def _take_over(self, kept: dict[str, Any]) -> None:
        self.jwt_secret, self.refresh_secret = kept["jwt_secret"], kept["refresh_secret"]
        for row in kept["poisons"]:
            row["groups"] = [PoisonedGroup(**group) for group in row["groups"]]
        for table, record in _TABLES.items():
            setattr(self, table, [record(**row) for row in kept[table]])

    def save(self) -> None:
        """Writes the file, whole or not at all; readable by its owner only, as it holds secrets."""
        if self._path is None:
            return
        rows = {table: [asdict(record) for record in getattr(self, table)] for table in _TABLES}
        written = json.dumps({"jwt_secret": self.jwt_secret, "refresh_secret": self.refresh_secret, **rows})
        fresh = self._path.with_suffix(".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(written)
        fresh.replace(self._path)

    def user(self, username: str) -> User | None:
        """The user of that name."""
        return next((user for user in self.users if user.username == username), None)

    def factory(self, name: str) -> Factory | None:
        """The factory of that name that is not removed."""
        return next((factory for factory in self.factories if factory.name == name and not factory.is_deleted), None)

    def station(self, name: str) -> Station | None:
        """The station of that name that is not removed; the first of several."""
        return next((station for station in self.stations if station.name == name and not station.is_deleted), None)

    def connection(self, id: str) -> Connection | None:
        """The connection of that id."""
        return next((connection for connection in self.connections if connection.id == id), None)

    def stations_of(self, factory: Factory) -> list[Station]:
        """What stands in the factory."""
        return [station for station in self.stations if station.factory_id == factory.id and not station.is_deleted]

    def factory_name(self, station: Station) -> str:
        """The name of the factory that the station stands in."""
        return next((factory.name for factory in self.factories if factory.id == station.factory_id), "")

    def members(self, station: Station, group: str) -> list[Consumer]:
        """All records of the group, removed ones too."""
        return [record for record in self.consumers if record.station_id == station.id and record.group == group]

    def presences(self, connection_id: str) -> Iterator[Producer | Consumer]:
        """All producers and consumers of a connection."""
        yield from (record for record in self.producers if record.connection_id == connection_id)
        yield from (record for record in self.consumers if record.connection_id == connection_id)

    def presences_of(self, station: Station) -> Iterator[Producer | Consumer]:
        """All producers and consumers of a station."""
        yield from (record for record in self.producers if record.station_id == station.id)
        yield from (record for record in self.consumers if record.station_id == station.id)

    def audit(self, station: Station | str, message: str, username: str, user_type: str) -> None:
        """Adds a line to the station's history."""
        name = station if isinstance(station, str) else station.name
        self.audit_logs.append(AuditLog(station=name, message=message, created_by_user=username, user_type=user_type))

    def note(self, line: str) -> None:
        """Adds a line to the broker's history."""
        self.system_logs.append(SystemLog(log=line))


Record = TypeVar("Record", Producer, Consumer)


def newest(records: list[Record]) -> list[Record]:
    """One record for each name, the newest, newest first."""
    first: dict[str, Record] = {}
    for record in sorted(records, key=lambda record: record.created, reverse=True):
        first.setdefault(record.name, record)
    return list(first.values())
