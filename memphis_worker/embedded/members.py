"""Producers and consumers. Source: Memphis 0.3.0 (tests/wire/classic/http.jsonl parts B and C, consumers.jsonl).

No create is atomic, as on the real broker: found, then inserted, with a wait for JetStream between. Of two creates of
one name at the same time both may succeed; a client has to make them one at a time.
"""

from __future__ import annotations

from memphis_worker.embedded.endpoint import Call, Endpoint
from memphis_worker.embedded.fields import Field, required
from memphis_worker.embedded.gojson import date_ms
from memphis_worker.embedded.http import Reply, ok, server_error, showable
from memphis_worker.embedded.ids import parse_id
from memphis_worker.embedded.jetstream import JetStream, JetStreamError
from memphis_worker.embedded.state import Connection, Consumer, Producer, State, Station
from memphis_worker.embedded.stations import Stations, check_name

_TYPES = ("application", "connector")
_ALLOWED = "letters and _"
_CONSUMER_NAME = "Consumer name/consumer group"
DEFAULT_ACK_MS = 30_000
MOST_DELIVERIES = 10


class Members:
    """The endpoints below /api/producers and /api/consumers."""

    def __init__(self, state: State, jetstream: JetStream, stations: Stations) -> None:
        self._state = state
        self._jetstream = jetstream
        self._stations = stations

    def endpoints(self) -> list[Endpoint]:
        """The routes."""
        producers, consumers = "/api/producers", "/api/consumers"
        named, by_station = (
            required("name", "station_name"),
            (Field(name="station_name", required=True, shown="StationName"),),
        )
        return [
            Endpoint(
                method="POST",
                path=f"{producers}/createProducer",
                handler=self.create_producer,
                fields=required("name", "station_name", "connection_id", "producer_type"),
            ),
            Endpoint(
                method="DELETE",
                path=f"{producers}/destroyProducer",
                handler=self.destroy_producer,
                fields=named,
                sandboxed=True,
            ),
            Endpoint(method="GET", path=f"{producers}/getAllProducers", handler=self.get_all_producers),
            Endpoint(
                method="GET",
                path=f"{producers}/getAllProducersByStation",
                handler=self.get_producers_by_station,
                fields=by_station,
            ),
            Endpoint(
                method="POST",
                path=f"{consumers}/createConsumer",
                handler=self.create_consumer,
                fields=(
                    *required("name", "station_name", "connection_id", "consumer_type"),
                    Field(name="consumers_group"),
                    Field(name="max_ack_time_ms", kind="int"),
                    Field(name="max_msg_deliveries", kind="int"),
                ),
            ),
            Endpoint(
                method="DELETE",
                path=f"{consumers}/destroyConsumer",
                handler=self.destroy_consumer,
                fields=named,
                sandboxed=True,
            ),
            Endpoint(method="GET", path=f"{consumers}/getAllConsumers", handler=self.get_all_consumers),
            Endpoint(
                method="GET",
                path=f"{consumers}/getAllConsumersByStation",
                handler=self.get_consumers_by_station,
                fields=by_station,
            ),
        ]

    async def create_producer(self, call: Call) -> Reply:
        """Checks in this order: name, type, connection, station (made when missing), unique name among active ones."""
        values = call.values
        name, type_ = values["name"].lower(), values["producer_type"].lower()
        check_name(name, "Producer name", _ALLOWED)
        _check_type("Producer", type_)
        connection = self._connection(values["connection_id"])
        station = await self._stations.ensure(values["station_name"].lower(), call)
        if any(record.is_active for record in self._producers(name, station)):
            raise showable("Producer name has to be unique in a station level")
        producer = Producer(
            name=name,
            type=type_,
            station_id=station.id,
            connection_id=connection.id,
            created_by_user=connection.created_by_user,
        )
        self._state.producers.append(producer)
        self._tell(station, f"Producer {name} has been created", call)
        return ok({"producer_id": producer.id})

    async def destroy_producer(self, call: Call) -> Reply:
        """One active record of the name. 500 when there is none: the real broker's not-found text cannot be reached."""
        name, station = call.values["name"].lower(), self._state.station(call.values["station_name"].lower())
        active = [record for record in self._producers(name, station) if record.is_active] if station else []
        if not active or station is None:
            raise server_error()
        active[0].is_active, active[0].is_deleted = False, True
        self._tell(station, f"Producer {name} has been deleted", call)
        return ok({})

    async def get_all_producers(self, call: Call) -> Reply:
        """All records ever made."""
        return ok([self.producer_item(record) for record in self._state.producers])

    async def get_producers_by_station(self, call: Call) -> Reply:
        """Those of one station, its name in lower case."""
        station = self._station(call)
        return ok([self.producer_item(record) for record in self._state.producers if record.station_id == station.id])

    async def create_consumer(self, call: Call) -> Reply:
        """A living group gives its numbers to the new member; a new one makes a durable, whose failure is ignored."""
        values = call.values
        name, type_ = values["name"].lower(), values["consumer_type"].lower()
        group = (values["consumers_group"] or name).lower()
        check_name(name, _CONSUMER_NAME, _ALLOWED)
        check_name(group, _CONSUMER_NAME, _ALLOWED)
        _check_type("Consumer", type_)
        connection = self._connection(values["connection_id"])
        station = await self._stations.ensure(values["station_name"].lower(), call)
        if any(record.is_active for record in self._consumers(name, station)):
            raise showable("Consumer name has to be unique in a station level")
        members = [record for record in self._state.members(station, group) if not record.is_deleted]
        consumer = Consumer(
            name=name,
            type=type_,
            station_id=station.id,
            connection_id=connection.id,
            created_by_user=connection.created_by_user,
            group=group,
            max_ack_time_ms=members[0].max_ack_time_ms if members else values["max_ack_time_ms"],
            max_msg_deliveries=members[0].max_msg_deliveries if members else values["max_msg_deliveries"],
        )
        if not members:
            await self._make_durable(station, consumer)
        self._state.consumers.append(consumer)
        self._tell(station, f"Consumer {name} has been created", call)
        return ok({"consumer_id": consumer.id})

    async def _make_durable(self, station: Station, consumer: Consumer) -> None:
        try:
            await self._jetstream.request(
                f"CONSUMER.DURABLE.CREATE.{station.name}.{consumer.group}",
                {"stream_name": station.name, "config": durable_config(station, consumer)},
            )
        except JetStreamError as error:
            self._state.note(f"Consumer group {consumer.group} has no durable: {error}")

    async def destroy_consumer(self, call: Call) -> Reply:
        """All active records of the name. The last member takes the durable with it; 500 when that is gone already."""
        name, station = call.values["name"].lower(), self._state.station(call.values["station_name"].lower())
        active = [record for record in self._consumers(name, station) if record.is_active] if station else []
        if not active or station is None:
            raise showable("A consumer with the given details was not found")
        for record in active:
            record.is_active, record.is_deleted = False, True
        await self._end_group(station, active[0].group)
        self._tell(station, f"Consumer {name} has been deleted", call)
        return ok({})

    async def _end_group(self, station: Station, group: str) -> None:
        if any(not record.is_deleted for record in self._state.members(station, group)):
            return
        try:
            await self._jetstream.request(f"CONSUMER.DELETE.{station.name}.{group}")
        except JetStreamError as error:
            raise server_error() from error
        for poison in self._state.poisons:
            if poison.station == station.name:
                poison.groups = [poisoned for poisoned in poison.groups if poisoned.name != group]

    async def get_all_consumers(self, call: Call) -> Reply:
        """All records ever made."""
        return ok([self.consumer_item(record) for record in self._state.consumers])

    async def get_consumers_by_station(self, call: Call) -> Reply:
        """Those of one station, its name in lower case."""
        station = self._station(call)
        return ok([self.consumer_item(record) for record in self._state.consumers if record.station_id == station.id])

    def producer_item(self, record: Producer) -> dict[str, object]:
        """One item of a list of producers."""
        station = next(station for station in self._state.stations if station.id == record.station_id)
        return {
            "id": record.id,
            "name": record.name,
            "type": record.type,
            "connection_id": record.connection_id,
            "created_by_user": record.created_by_user,
            "creation_date": date_ms(record.created),
            "station_name": station.name,
            "factory_name": self._state.factory_name(station),
            "is_active": record.is_active,
            "is_deleted": record.is_deleted,
            "client_address": self.address(record),
        }

    def consumer_item(self, record: Consumer) -> dict[str, object]:
        """One item of a list of consumers: no id and no station, as on the real broker."""
        return {
            "name": record.name,
            "created_by_user": record.created_by_user,
            "creation_date": date_ms(record.created),
            "is_active": record.is_active,
            "is_deleted": record.is_deleted,
            "client_address": self.address(record),
            "consumers_group": record.group,
            "max_ack_time_ms": record.max_ack_time_ms,
            "max_msg_deliveries": record.max_msg_deliveries,
        }

    def address(self, record: Producer | Consumer) -> str:
        """Where its connection came from."""
        connection = self._state.connection(record.connection_id)
        return connection.client_address if connection else ""

    def _station(self, call: Call) -> Station:
        station = self._state.station(call.values["station_name"])
        if station is None:
            raise showable("Station does not exist")
        return station

    def _connection(self, written: str) -> Connection:
        id_ = parse_id(written)
        if id_ is None:
            raise showable("Connection id is not valid")
        connection = self._state.connection(id_)
        if connection is None:
            raise showable("Connection id was not found")
        if not connection.is_active:
            raise showable("Connection is not active")
        return connection

    def _producers(self, name: str, station: Station) -> list[Producer]:
        return [record for record in self._state.producers if record.name == name and record.station_id == station.id]

    def _consumers(self, name: str, station: Station) -> list[Consumer]:
        return [record for record in self._state.consumers if record.name == name and record.station_id == station.id]

    def _tell(self, station: Station, message: str, call: Call) -> None:
        self._state.note(message)
        self._state.audit(station, message, call.username, call.user_type)


def _check_type(kind: str, type_: str) -> None:
    if type_ not in _TYPES:
        raise showable(f"{kind} type has to be one of the following {'/'.join(_TYPES)}")


def durable_config(station: Station, consumer: Consumer) -> dict[str, object]:
    """The durable of a group: the numbers clamped, the record keeps them as given."""
    ack_ms = consumer.max_ack_time_ms if consumer.max_ack_time_ms > 0 else DEFAULT_ACK_MS
    deliveries = consumer.max_msg_deliveries
    return {
        "durable_name": consumer.group,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": _int64(ack_ms * 1_000_000),
        "max_deliver": deliveries if 0 < deliveries <= MOST_DELIVERIES else MOST_DELIVERIES,
        "filter_subject": f"{station.name}.final",
        "replay_policy": "instant",
        "max_ack_pending": -1,
    }


def _int64(value: int) -> int:
    """Overflows as a Go duration does: above 9.2e12 ms the ack wait is negative."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)
