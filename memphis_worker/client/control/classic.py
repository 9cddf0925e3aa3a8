"""The control plane of Memphis up to 0.3.0: a session over TCP, everything else over HTTP, messages over plain NATS.

Creates and destroys run one at a time: none is atomic on the broker, and parallel ones leave double records.
Facts from Memphis broker v0.3.0 (`handlers/`, `broker/broker.go`), seen on a real one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from memphis_worker.client import names
from memphis_worker.client.control.dead_letters import Poisoned, read_poisoned
from memphis_worker.client.control.management import Inactive, Management, ServerError
from memphis_worker.client.control.plane import DataPlane, Pullable, StationInfo
from memphis_worker.client.control.session import Session
from memphis_worker.errors import AlreadyExists, BrokerRefused, MemphisWorkerError, Missing
from memphis_worker.log import get_logger
from memphis_worker.options import ConnectOptions, GroupOptions, StationOptions

__all__ = ["ClassicPlane"]

log = get_logger(__name__)

_DEFAULT_ACK_WAIT_MS = 30_000
#: The broker keeps 1 to 10 deliveries as asked and makes 10 of any other number.
_DELIVERIES_MAX = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """A producer or consumer record of ours, and how to make it again."""

    kind: str
    station: str
    name: str
    body: dict[str, object]


class ClassicPlane:
    """One session with a classic broker. See `ControlPlane` for what each method gives."""

    def __init__(self, options: ConnectOptions) -> None:
        """No I/O. `localhost` becomes 127.0.0.1: the broker listens on IPv4 only."""
        if options.host == "localhost":
            options = replace(options, host="127.0.0.1")
        self._options = options
        self._session = Session(options, self._restore_later)
        self._http = Management(options, self._session)
        self._one_at_a_time = asyncio.Lock()
        self._members: dict[tuple[str, str, str], _Member] = {}
        self._restoring: asyncio.Task[None] | None = None

    async def open(self) -> DataPlane:
        await self._session.open()
        options = self._options
        host = f"[{options.host}]" if ":" in options.host else options.host
        log.info("session.opened", broker=options.url, connection_id=self._session.connection_id)
        return DataPlane(servers=(f"nats://{host}:{options.data_port}",), token=options.connection_token)

    @property
    def connected(self) -> bool:
        return self._session.connected

    @property
    def connection_id(self) -> str:
        """24 hex digits, kept over reconnects for as long as the broker knows it."""
        return self._session.connection_id

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        return self._session.on_change(callback)

    def message_headers(self, producer_name: str) -> list[tuple[str, str]]:
        # Without both of them a message that fails for good never becomes a dead letter of the broker.
        return [("producedBy", producer_name), ("connectionId", self._session.connection_id)]

    def produce_subject(self, station: str) -> str:
        return names.station_subject(names.station_name(station))

    # ---------------------------------------------------- factories and stations

    async def create_factory(self, name: str, description: str) -> str:
        factory = names.factory_name(name)
        body: dict[str, object] = {"name": factory, "description": description}
        async with self._one_at_a_time:
            try:
                await self._http.post("/api/factories/createFactory", f"create factory {factory!r}", body)
            except AlreadyExists:
                log.debug("factory.found", factory=factory)
        return factory

    async def destroy_factory(self, name: str) -> None:
        factory = names.factory_name(name)
        async with self._one_at_a_time:
            gone = {info.name for info in await self.stations() if info.factory_name == factory}
            body: dict[str, object] = {"factory_name": factory}
            await self._http.delete("/api/factories/removeFactory", f"destroy factory {factory!r}", body)
            self._forget(gone)

    async def create_station(self, name: str, options: StationOptions) -> str:
        station = names.station_name(name)
        body: dict[str, object] = {
            "name": station,
            "factory_name": names.factory_name(options.factory_name or names.DEFAULT_FACTORY),
            "retention_type": options.retention_type,
            "retention_value": options.retention_value,
            "storage_type": options.storage_type,
            "replicas": options.replicas,
            "dedup_enabled": options.dedup_enabled,
            "dedup_window_in_ms": options.dedup_window_ms,
        }
        async with self._one_at_a_time:
            try:
                await self._http.post("/api/stations/createStation", f"create station {station!r}", body)
            except AlreadyExists:
                log.debug("station.found", station=station)
        return station

    async def destroy_station(self, name: str) -> None:
        station = names.station_name(name)
        async with self._one_at_a_time:
            body: dict[str, object] = {"station_name": station}
            await self._http.delete("/api/stations/removeStation", f"destroy station {station!r}", body)
            self._forget({station})

    async def stations(self) -> list[StationInfo]:
        found = await self._http.read("/api/stations/getAllStations", "list stations")
        items = found if isinstance(found, list) else []
        return sorted((_station(item) for item in items if isinstance(item, dict)), key=lambda info: info.name)

    async def station(self, name: str) -> StationInfo | None:
        station = names.station_name(name)
        try:
            found = await self._http.read(
                "/api/stations/getStation", f"look up station {station!r}", {"station_name": station}
            )
        except Missing:
            return None
        return _station(found) if isinstance(found, dict) else None

    # ------------------------------------------------------------------ members

    async def create_producer(self, station: str, name: str) -> None:
        station, name = names.station_name(station), names.producer_name(name)
        body: dict[str, object] = {"name": name, "station_name": station, "producer_type": "application"}
        await self._join(_Member(kind="producer", station=station, name=name, body=body))

    async def destroy_producer(self, station: str, name: str) -> None:
        station, name = names.station_name(station), names.producer_name(name)
        try:
            await self._leave("producer", station, name)
        except ServerError as exc:  # Its own words for a producer that it does not know.
            raise Missing(
                f"destroy producer {name!r} of station {station!r}: the broker does not know it, or not any more"
            ) from exc

    async def create_consumer(self, station: str, name: str, group: str, options: GroupOptions) -> list[Pullable]:
        """As `ControlPlane.create_consumer`; a missing station is made with the broker's own defaults.

        An existing group keeps its own ack wait and deliveries whatever is asked for, and the broker answers with
        success even when the durable could not be made: read it back (CONSUMER.INFO) before trusting what is returned.
        """
        station, name, group = names.station_name(station), names.consumer_name(name), names.group_name(group or name)
        deliveries = options.server_deliveries or options.max_msg_deliveries
        body: dict[str, object] = {
            "name": name,
            "station_name": station,
            "consumer_type": "application",
            "consumers_group": group,
            "max_ack_time_ms": options.max_ack_time_ms,
            "max_msg_deliveries": deliveries,
        }
        await self._join(_Member(kind="consumer", station=station, name=name, body=body))
        ack_wait_ms = options.max_ack_time_ms if options.max_ack_time_ms > 0 else _DEFAULT_ACK_WAIT_MS
        return [
            Pullable(
                stream=station,
                durable=group,
                ack_wait_s=ack_wait_ms / 1000,
                max_deliver=deliveries if 1 <= deliveries <= _DELIVERIES_MAX else _DELIVERIES_MAX,
                resent_subject=names.resent_subject(station, group),
            )
        ]

    async def destroy_consumer(self, station: str, name: str) -> None:
        station, name = names.station_name(station), names.consumer_name(name)
        try:
            await self._leave("consumer", station, name)
        except ServerError:
            # The durable was gone in NATS: the record is deleted all the same, which a second call confirms.
            with contextlib.suppress(Missing):
                await self._leave("consumer", station, name)
            log.warning("consumer.destroyed_without_durable", station=station, consumer=name)

    # ------------------------------------------------------------- dead letters

    async def poisoned(self, station: str) -> list[Poisoned]:
        """What the broker itself recorded as failed for good in the last 3 hours, newest first. Raises Missing."""
        station = names.station_name(station)
        return await read_poisoned(self._http, station)

    async def resend_poisoned(self, ids: list[str]) -> None:
        """Sends them again to each group they failed in: to whoever is subscribed now, binary bodies maybe damaged."""
        async with self._one_at_a_time:
            await self._http.post(
                "/api/stations/resendPoisonMessages", "resend dead letters", {"poison_message_ids": ids}
            )

    async def drop_poisoned(self, ids: list[str]) -> None:
        """Deletes the records, for all groups; the messages stay in their stations. Unknown ids are no error."""
        async with self._one_at_a_time:
            await self._http.post("/api/stations/ackPoisonMessages", "drop dead letters", {"poison_message_ids": ids})

    async def close(self) -> None:
        if self._restoring is not None:
            self._restoring.cancel()
            await asyncio.wait({self._restoring})
        await self._session.close()
        await self._http.close()

    # ---------------------------------------------------------------- our records

    async def _join(self, member: _Member) -> None:
        async with self._one_at_a_time:
            await self._register(member)
            self._members[(member.kind, member.station, member.name)] = member

    async def _leave(self, kind: str, station: str, name: str) -> None:
        what = f"destroy {kind} {name!r} of station {station!r}"
        path = f"/api/{kind}s/destroy{kind.capitalize()}"
        body: dict[str, object] = {"name": name, "station_name": station}
        async with self._one_at_a_time:
            ours = self._members.pop((kind, station, name), None)
            try:
                await self._http.delete(path, what, body)
            except (Missing, ServerError) as exc:
                # A member that the broker counts as inactive cannot be destroyed: signing in again revives it.
                inactive = isinstance(exc, Missing if kind == "consumer" else ServerError)
                if ours is None or not inactive or not self._options.reconnect:
                    raise
                await self._session.renew()
                await self._http.delete(path, what, body)

    async def _register(self, member: _Member) -> None:
        what = f"create {member.kind} {member.name!r} of station {member.station!r}"
        path = f"/api/{member.kind}s/create{member.kind.capitalize()}"
        try:
            try:
                await self._post_with_id(path, what, member)
            except Inactive:
                await self._session.renew()
                await self._post_with_id(path, what, member)
        except AlreadyExists as exc:
            raise AlreadyExists(
                f"{exc}; another client uses this name: choose another one, "
                "or wait until the broker sees that a crashed client is gone (up to 95 s)"
            ) from exc

    async def _post_with_id(self, path: str, what: str, member: _Member) -> None:
        await self._http.post(path, what, {**member.body, "connection_id": self._session.connection_id})

    def _forget(self, stations: set[str]) -> None:
        self._members = {key: member for key, member in self._members.items() if member.station not in stations}

    def _restore_later(self) -> None:
        """The broker has lost our records: a task of its own, since each create may wait for the session."""
        if self._members:
            self._restoring = asyncio.create_task(self._restore(), name="restore members")

    async def _restore(self) -> None:
        async with self._one_at_a_time:
            for member in list(self._members.values()):
                try:
                    await self._register(member)
                except MemphisWorkerError as exc:
                    tell = log.error if isinstance(exc, BrokerRefused) else log.warning
                    tell("member.restore_failed", kind=member.kind, name=member.name, error=str(exc))
                else:
                    log.info("member.restored", kind=member.kind, name=member.name, station=member.station)


def _station(item: dict[str, object]) -> StationInfo:
    def text(key: str) -> str | None:
        value = item.get(key)
        return value if isinstance(value, str) and value else None

    def number(key: str) -> int | None:
        value = item.get(key)
        return value if isinstance(value, int) else None

    dedup = item.get("dedup_enabled")
    return StationInfo(
        name=text("name") or "",
        retention_type=text("retention_type"),
        retention_value=number("retention_value"),
        storage_type=text("storage_type"),
        replicas=number("replicas"),
        dedup_enabled=dedup if isinstance(dedup, bool) else None,
        dedup_window_ms=number("dedup_window_in_ms"),
        factory_name=text("factory_name"),
    )
