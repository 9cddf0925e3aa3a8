"""The control plane of a MemoryBroker: stations, producers and groups, made and destroyed at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from memphis_worker.client.control.plane import DataPlane, Pullable, StationInfo
from memphis_worker.client.names import consumer_name, group_name, resent_subject, station_name, station_subject
from memphis_worker.errors import AlreadyExists, Missing
from memphis_worker.options import GroupOptions, StationOptions
from memphis_worker.testing.durable import Durable

if TYPE_CHECKING:
    from memphis_worker.testing.memory import MemoryBroker, MemoryStream

__all__ = ["MemoryPlane"]


class MemoryPlane:
    """A `ControlPlane`. Factories have names and nothing else."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    async def open(self) -> DataPlane:
        return DataPlane(servers=("memory",))

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    @property
    def connected(self) -> bool:
        return self._broker.up

    def message_headers(self, producer_name: str) -> list[tuple[str, str]]:
        return [("producedBy", producer_name), ("connectionId", "memory")]

    def produce_subject(self, station: str) -> str:
        return station_subject(station_name(station))

    async def create_factory(self, name: str, description: str) -> str:
        return name.lower()

    async def destroy_factory(self, name: str) -> None:
        for stream in list(self._broker.streams.values()):
            if stream.options.factory_name == name:
                await self.destroy_station(stream.name)

    async def create_station(self, name: str, options: StationOptions) -> str:
        from memphis_worker.testing.memory import MemoryStream

        name = station_name(name)
        self._broker.streams.setdefault(name, MemoryStream(name, options))
        return name

    async def destroy_station(self, name: str) -> None:
        stream = self._broker.station(station_name(name))
        for group in list(stream.groups):
            self._broker.delete_group(stream.name, group)
        del self._broker.streams[stream.name]

    async def stations(self) -> list[StationInfo]:
        return [_info(stream) for _, stream in sorted(self._broker.streams.items())]

    async def station(self, name: str) -> StationInfo | None:
        stream = self._broker.streams.get(station_name(name))
        return None if stream is None else _info(stream)

    async def create_producer(self, station: str, name: str) -> None:
        producers = self._broker.station(station_name(station)).producers
        if name in producers:
            raise AlreadyExists(f"producer {name!r} of station {station!r} exists already; use another name")
        producers.append(name)

    async def destroy_producer(self, station: str, name: str) -> None:
        producers = self._broker.station(station_name(station)).producers
        if name not in producers:
            raise Missing(f"producer {name!r} of station {station!r} does not exist")
        producers.remove(name)

    async def create_consumer(self, station: str, name: str, group: str, options: GroupOptions) -> list[Pullable]:
        stream = self._broker.station(station_name(station))
        name, group = consumer_name(name), group_name(group or name)
        if any(name in each.members for each in stream.groups.values()):
            raise AlreadyExists(f"consumer {name!r} of station {station!r} exists already; use another name")
        durable = stream.groups.get(group)
        if durable is None:
            durable = stream.groups[group] = self._made(stream, group, options)
        durable.members.append(name)
        return [
            Pullable(
                stream=stream.name,
                durable=group,
                ack_wait_s=durable.ack_wait_s,
                max_deliver=durable.max_deliver,
                resent_subject=resent_subject(stream.name, group),
            )
        ]

    async def destroy_consumer(self, station: str, name: str) -> None:
        stream = self._broker.station(station_name(station))
        for group, durable in stream.groups.items():
            if name in durable.members:
                durable.members.remove(name)
                if not durable.members:
                    self._broker.delete_group(stream.name, group)
                return
        raise Missing(f"consumer {name!r} of station {station!r} does not exist")

    async def close(self) -> None:
        pass

    def _made(self, stream: MemoryStream, group: str, options: GroupOptions) -> Durable:
        durable = Durable(
            self._broker,
            stream.messages,
            stream.name,
            group,
            ack_wait_s=options.max_ack_time_ms / 1000,
            max_deliver=options.server_deliveries or options.max_msg_deliveries,
            filter_subject=f"{stream.name}.final",
        )
        durable.waiting.extend(stream.messages)
        return durable


def _info(stream: MemoryStream) -> StationInfo:
    return StationInfo(name=stream.name, **asdict(stream.options))
