"""Binding: makes a handler's station and group where they are missing, and refuses what exists and differs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace

from memphis_worker.client.control.plane import ControlPlane, Pullable, StationInfo
from memphis_worker.client.jetstream import ConsumerInfo, consumer_info
from memphis_worker.client.names import DEAD_STATION, member_name
from memphis_worker.client.transport import Transport
from memphis_worker.errors import Differs, Missing
from memphis_worker.handler import Handler
from memphis_worker.options import GroupOptions, StationOptions
from memphis_worker.runtime.settlement import CRASH_MARGIN

__all__ = [
    "DEAD_STATION",
    "bind",
    "check_group",
    "check_station",
    "dead_stations",
    "declare_dead_stations",
    "declare_station",
    "difference",
]

#: Memphis delivers no message more often than this, whatever a group asks for.
DELIVERIES_MAX = 10


def dead_station_options() -> StationOptions:
    """Of the dead-letter station: 14 days, on disk, and one entry for a message that is recorded twice in an hour."""
    return StationOptions(retention_value=14 * 86_400, dedup_enabled=True, dedup_window_ms=3_600_000)


async def declare_station(plane: ControlPlane, station: str, options: StationOptions | None) -> None:
    """Makes it where it is missing. Raises Differs where `options` say something else than what exists."""
    existing = await plane.station(station)
    if existing is None:
        await plane.create_station(station, options or StationOptions())
        return
    check_station(station, options, existing)


def check_station(station: str, options: StationOptions | None, existing: StationInfo) -> None:
    """Raises Differs where `options` say something else than what exists."""
    found = difference(options, existing) if options is not None else ""
    if found:
        raise Differs(
            f"station {station!r} exists and differs: {found}; it is not changed: "
            "adapt station_options to it, or destroy the station"
        )


def dead_stations(handlers: Iterable[Handler]) -> list[str]:
    """Where the dead letters of these handlers go."""
    return sorted({each.dead_station for each in handlers if each.dead_station is not None})


async def declare_dead_stations(plane: ControlPlane, handlers: Iterable[Handler]) -> None:
    """Makes those that are missing. Raises Differs for a `memphis_worker_dead` that is not as it should be."""
    for station in dead_stations(handlers):
        await declare_station(plane, station, dead_station_options() if station == DEAD_STATION else None)


def difference(wanted: StationOptions, existing: StationInfo) -> str:
    """What `wanted` writes out and the station does not have; empty when nothing."""
    defaults = StationOptions()
    found = []
    for option in fields(StationOptions):
        want, has = getattr(wanted, option.name), getattr(existing, option.name)
        if want != getattr(defaults, option.name) and has is not None and has != want:
            found.append(f"{option.name} is {has!r}, asked for {want!r}")
    return ", ".join(found)


async def bind(plane: ControlPlane, transport: Transport, handler: Handler) -> Pullable:
    """Joins the handler's group under a name of this process alone. Raises Differs, Missing, BrokerRefused."""
    await declare_station(plane, handler.station, handler.station_options)
    options = handler.options
    group = GroupOptions(
        max_ack_time_ms=options.max_ack_time_ms,
        max_msg_deliveries=options.max_msg_deliveries,
        server_deliveries=min(DELIVERIES_MAX, options.max_msg_deliveries + CRASH_MARGIN + 1),
    )
    name = member_name(handler.group)
    (pullable,) = await plane.create_consumer(handler.station, name, handler.group, group)
    try:
        info = await consumer_info(transport, pullable.stream, pullable.durable)
    except Missing as exc:
        raise Missing(
            f"group {handler.group!r} of station {handler.station!r} has members and no durable: the broker has "
            "lost it; destroy its consumers, and the next start makes it anew"
        ) from exc
    check_group(handler, info)
    return replace(pullable, ack_wait_s=info.ack_wait_s, max_deliver=info.max_deliver)


def check_group(handler: Handler, info: ConsumerInfo) -> None:
    """Raises Differs where delivery would not be what the handler asks for."""
    wanted_s = handler.options.max_ack_time_ms / 1000
    found = []
    if abs(info.ack_wait_s - wanted_s) > 0.001:
        found.append(f"its ack wait is {info.ack_wait_s:g} s, max_ack_time_ms asks for {wanted_s:g} s")
    if 0 < info.max_deliver < handler.options.max_msg_deliveries:
        found.append(
            f"it allows {info.max_deliver} deliveries, max_msg_deliveries is {handler.options.max_msg_deliveries} "
            f"(Memphis never allows more than {DELIVERIES_MAX})"
        )
    if not info.pull or info.ack_policy != "explicit":
        found.append("it is no pull consumer with explicit acks")
    if found:
        raise Differs(
            f"group {handler.group!r} of station {handler.station!r} exists and differs: {'; '.join(found)}; "
            f"it is not changed: adapt handler {handler.name}, or use another group"
        )
