"""Stations. Source: Memphis 0.3.0 (tests/wire/classic/http.jsonl parts A and C, streams.jsonl)."""

from __future__ import annotations

import re

from memphis_worker.embedded.endpoint import Call, Endpoint
from memphis_worker.embedded.fields import Field, required
from memphis_worker.embedded.gojson import date_ms, date_ns
from memphis_worker.embedded.http import Reply, ok, server_error, showable
from memphis_worker.embedded.jetstream import JetStream, JetStreamError
from memphis_worker.embedded.state import Factory, State, Station

DEFAULT_FACTORY = "melvis"
DEFAULT_RETENTION = ("message_age_sec", 604_800)
MAX_MESSAGE_SIZE = 12 * 1024 * 1024
LEAST_DEDUP_MS = 100
MAX_REPLICAS = 5
SECOND_NS = 1_000_000_000
_NAME = re.compile("[a-z0-9_]*")


class Stations:
    """The endpoints below /api/stations, without the dead letters."""

    def __init__(self, state: State, jetstream: JetStream) -> None:
        self._state = state
        self._jetstream = jetstream

    def endpoints(self) -> list[Endpoint]:
        """The routes."""
        base, station = "/api/stations", required("station_name")
        return [
            Endpoint(method="POST", path=f"{base}/createStation", handler=self.create_station, fields=_STATION_FIELDS),
            Endpoint(method="GET", path=f"{base}/getAllStations", handler=self.get_all_stations),
            Endpoint(method="GET", path=f"{base}/getStation", handler=self.get_station, fields=station),
            Endpoint(
                method="DELETE",
                path=f"{base}/removeStation",
                handler=self.remove_station,
                fields=station,
                sandboxed=True,
            ),
        ]

    async def create_station(self, call: Call) -> Reply:
        """Makes a missing factory too, also when the station then fails."""
        values = call.values
        name = values["name"].lower()
        check_name(name, "station name", "letters, numbers and _")
        if self._state.station(name) is not None:
            raise showable("Station with the same name is already exist")
        factory = self._factory_for(values["factory_name"].lower(), call.username)
        retention_type, retention_value = _retention(values["retention_type"].lower(), values["retention_value"])
        storage_type = values["storage_type"].lower()
        if storage_type not in ("", "file", "memory"):
            raise showable("storage type can be one of the following file/memory")
        if values["replicas"] > MAX_REPLICAS:
            raise showable(f"max replicas in a cluster is {MAX_REPLICAS}")
        station = Station(
            name=name,
            factory_id=factory.id,
            created_by_user=call.username,
            retention_type=retention_type,
            retention_value=retention_value,
            storage_type=storage_type,
            replicas=max(1, values["replicas"]),
            dedup_enabled=values["dedup_enabled"],
            dedup_window_in_ms=values["dedup_window_in_ms"],
        )
        try:
            await self._add(station, call)
        except JetStreamError as error:
            raise showable(error.shown) from error
        made = date_ns(station.created)
        return ok({**station_item(station), "creation_date": made, "last_update": made})

    def add_factory(self, name: str, username: str, description: str = "") -> Factory:
        """A new factory; its name is not looked at."""
        factory = Factory(name=name, description=description, created_by_user=username)
        self._state.factories.append(factory)
        self._state.note(f"Factory {name} has been created")
        return factory

    def _factory_for(self, name: str, username: str) -> Factory:
        factory = self._state.factory(name)
        if factory is None:
            check_factory_name(name)
            factory = self.add_factory(name, username)
        return factory

    async def ensure(self, name: str, call: Call) -> Station:
        """The station, made with the defaults when it is missing: what a create of a producer or consumer does.

        The name is not checked there; 500 for one that JetStream does not take.
        """
        station = self._state.station(name)
        if station is None:
            factory = self._factory_for(DEFAULT_FACTORY, call.username)
            station = Station(name=name, factory_id=factory.id, created_by_user=call.username)
            try:
                await self._add(station, call)
            except JetStreamError as error:
                raise server_error() from error
        return station

    async def _add(self, station: Station, call: Call) -> None:
        if re.search(r"[\s.*>]", station.name):
            raise JetStreamError("memphis-broker: invalid stream name")
        await self._jetstream.request(f"STREAM.CREATE.{station.name}", stream_config(station))
        self._state.stations.append(station)
        message = f"Station {station.name} has been created"
        self._state.note(message)
        self._state.audit(station, message, call.username, call.user_type)

    async def get_all_stations(self, call: Call) -> Reply:
        """All stations with the names of their factories."""
        return ok(self.listed())

    def listed(self) -> list[dict[str, object]]:
        """The items of getAllStations."""
        found = (station for station in self._state.stations if not station.is_deleted)
        return [{**_listed(station), "factory_name": self._state.factory_name(station)} for station in found]

    async def get_station(self, call: Call) -> Reply:
        """The name has to be in lower case here."""
        station = self._state.station(call.values["station_name"])
        if station is None:
            raise showable("Station does not exist")
        return ok(station_item(station))

    async def remove_station(self, call: Call) -> Reply:
        """500 for ever when the stream is gone already: so it is on the real broker."""
        station = self._state.station(call.values["station_name"].lower())
        if station is None:
            raise showable("Station does not exist")
        await self.remove(station)
        return ok({})

    async def remove(self, station: Station) -> None:
        """Removes the stream and everything that is known of the station."""
        try:
            await self._jetstream.request(f"STREAM.DELETE.{station.name}")
        except JetStreamError as error:
            raise server_error() from error
        station.is_deleted = True
        for record in self._state.presences_of(station):
            record.is_active, record.is_deleted = False, True
        self._state.poisons = [poison for poison in self._state.poisons if poison.station != station.name]
        self._state.audit_logs = [line for line in self._state.audit_logs if line.station != station.name]
        self._state.note(f"Station {station.name} has been deleted")


_STATION_FIELDS = (
    *required("name", most=32),
    *required("factory_name"),
    Field(name="retention_type"),
    Field(name="retention_value", kind="int"),
    Field(name="replicas", kind="int"),
    Field(name="storage_type"),
    Field(name="dedup_enabled", kind="bool"),
    Field(name="dedup_window_in_ms", kind="int", least=0),
)


def check_name(name: str, what: str, allowed: str) -> None:
    """The two name rules, on a name in lower case; the limit counts bytes."""
    if len(name.encode()) > 32:
        raise showable(f"{what} should be under 32 characters")
    if not _NAME.fullmatch(name):
        raise showable(f"{what} has to include only {allowed}")


def check_factory_name(name: str) -> None:
    """The rule of factory names, on a name in lower case; their length has no limit here."""
    if not _NAME.fullmatch(name):
        raise showable("factory name has to include only letters, numbers and _")


def _retention(retention_type: str, value: int) -> tuple[str, int]:
    """Looked at only with a positive value, else the default."""
    if not retention_type or value <= 0:
        return DEFAULT_RETENTION
    if retention_type not in ("message_age_sec", "messages", "bytes"):
        raise showable("retention type can be one of the following message_age_sec/messages/bytes")
    return retention_type, value


def stream_config(station: Station) -> dict[str, object]:
    """The stream of a station. Duplicates are always dropped, within 100 ms at least: every message has an id."""
    limits = {station.retention_type: station.retention_value}
    window_ms = station.dedup_window_in_ms if station.dedup_enabled else 0
    return {
        "name": station.name,
        "subjects": [f"{station.name}.>"],
        "retention": "limits",
        "max_consumers": -1,
        "max_msgs": limits.get("messages", -1),
        "max_bytes": limits.get("bytes", -1),
        "discard": "old",
        "max_age": limits.get("message_age_sec", 0) * SECOND_NS,
        "max_msgs_per_subject": -1,
        "max_msg_size": MAX_MESSAGE_SIZE,
        "storage": station.storage_type or "file",
        "num_replicas": station.replicas,
        "duplicate_window": max(window_ms, LEAST_DEDUP_MS) * 1_000_000,
    }


def _listed(station: Station) -> dict[str, object]:
    return {
        "id": station.id,
        "name": station.name,
        "factory_id": station.factory_id,
        "retention_type": station.retention_type,
        "retention_value": station.retention_value,
        "storage_type": station.storage_type,
        "replicas": station.replicas,
        "dedup_enabled": station.dedup_enabled,
        "dedup_window_in_ms": station.dedup_window_in_ms,
        "created_by_user": station.created_by_user,
        "creation_date": date_ms(station.created),
        "last_update": date_ms(station.created),
        "functions": [],
    }


def station_item(station: Station) -> dict[str, object]:
    """A station as a single one is shown; lists leave out `is_deleted`."""
    return {**_listed(station), "is_deleted": station.is_deleted}
