"""`Memphis`: one connection to a broker, and all that is made with it."""

from __future__ import annotations

import re
import weakref
from dataclasses import replace
from functools import partial

from memphis_worker.client import names
from memphis_worker.client.consumer import Consumer, ConsumerOptions
from memphis_worker.client.control.plane import ControlPlane
from memphis_worker.client.factory import Factory
from memphis_worker.client.operation import Operations
from memphis_worker.client.producer import Producer
from memphis_worker.client.sign_in import sign_in
from memphis_worker.client.station import Station
from memphis_worker.client.transport import Transport
from memphis_worker.errors import ConnectionClosed, InvalidOption, InvalidURL, UsageError
from memphis_worker.log import get_logger
from memphis_worker.options import ConnectOptions, GroupOptions, StationOptions, retention_types, storage_types

__all__ = ["Memphis"]

log = get_logger(__name__)

Port = int | str


class Memphis:
    """A connection to a Memphis broker: factories, stations, producers and consumers are made with it.

    `factory`, `station`, `producer`, `consumer` and every `destroy` start at once, in the order of the calls and one
    at a time. What they return can be awaited, to have it confirmed or its error raised; not awaited, its first use
    waits and raises the error there, and an error that nobody asked for is logged by `close()`.
    """

    retention_types = retention_types
    storage_types = storage_types

    def __init__(self) -> None:
        self._plane: ControlPlane | None = None
        self._transport: Transport | None = None
        self._operations = Operations()
        self._consumers: weakref.WeakSet[Consumer] = weakref.WeakSet()
        self._timeout_s = 0.0

    async def __aenter__(self) -> Memphis:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @property
    def connected(self) -> bool:
        """Whether messages can flow now."""
        return self._transport is not None and self._transport.connected

    async def connect(
        self,
        host: str | None = None,
        username: str | None = None,
        connection_token: str | None = None,
        management_port: Port = 5555,
        tcp_port: Port = 6666,
        data_port: Port = 7766,
        reconnect: bool = False,
        max_reconnect: int = 10,
        reconnect_interval_ms: int = 1500,
        timeout_ms: int = 1500,
        *,
        url: str | None = None,
    ) -> None:
        """Signs in and opens the data connection.

        Either `host` (a leading http:// or https:// is dropped), `username` and `connection_token`, or `url` as in
        `memphis://USER:TOKEN@HOST?tcp_port=6666`, which then holds the ports too. With `reconnect`, a lost connection
        is tried again `max_reconnect` times in a row (-1: for ever), `reconnect_interval_ms` apart, and calls wait
        for it; without, they raise ConnectionClosed. `timeout_ms`: what a sign-in or a request may take.
        Raises NotReachable, AuthenticationFailed, BrokerRefused, InvalidURL, InvalidOption.
        """
        if self._transport is not None:
            raise UsageError("already connected; close() it first, or make another Memphis()")
        if url is not None:
            if host is not None:
                raise InvalidOption("both url and host are given; the url holds the host")
            options = ConnectOptions.from_url(url)
        else:
            options = ConnectOptions(
                host=_host(host),
                username=username or "root",
                connection_token=connection_token,
                management_port=_port("management_port", management_port),
                tcp_port=_port("tcp_port", tcp_port),
                data_port=_port("data_port", data_port),
            )
        options = replace(
            options,
            reconnect=reconnect,
            max_reconnect=max_reconnect,
            reconnect_interval_ms=reconnect_interval_ms,
            timeout_ms=timeout_ms,
        )
        if options.kind != "memphis":
            raise InvalidURL(f"{options.url!r}: a client needs a memphis:// URL; start the broker and use its url")
        self._plane, self._transport = await sign_in(options)
        self._timeout_s = options.timeout_ms / 1000

    async def close(self) -> None:
        """Stops the consumers, lets what was started end, and closes. Groups stay. Never raises; twice is fine."""
        for consumer in list(self._consumers):
            await consumer.end(self._timeout_s)
        await self._operations.finish(4 * self._timeout_s)
        transport, plane = self._transport, self._plane
        self._transport = self._plane = None
        if transport is not None:
            await transport.barrier(self._timeout_s)  # The acks of this tick are read by the server, or it is gone.
            await transport.close()
        if plane is not None:
            await plane.close()
            log.info("connection.closed")

    # -------------------------------------------------------------------- making

    def factory(self, name: str, description: str = "") -> Factory:
        """Makes a factory, or finds it. Raises InvalidName, ConnectionClosed; awaited also BrokerRefused."""
        plane, _ = self._opened()
        name = names.factory_name(name)
        created = self._operations.start(f"create factory {name!r}", partial(plane.create_factory, name, description))
        return Factory(self._operations, plane, name, created)

    def station(
        self,
        name: str,
        factory_name: str = "",
        retention_type: str = retention_types.MAX_MESSAGE_AGE_SECONDS,
        retention_value: int = 604_800,
        storage_type: str = storage_types.MEMORY,
        replicas: int = 1,
        dedup_enabled: bool = False,
        dedup_window_ms: int = 0,
    ) -> Station:
        """Makes a station, or finds it as it is: what exists is never changed.

        `factory_name`: made where missing; empty means `melvis`. `retention_value`: seconds, messages or bytes, by
        `retention_type`. `dedup_window_ms`: how long a message id counts as seen; classic Memphis never goes below
        100 ms. Raises InvalidName, InvalidOption, ConnectionClosed; awaited also BrokerRefused.
        """
        plane, _ = self._opened()
        name = names.station_name(name)
        options = StationOptions(
            retention_type=retention_type,
            retention_value=retention_value,
            storage_type=storage_type,
            replicas=replicas,
            dedup_enabled=dedup_enabled,
            dedup_window_ms=dedup_window_ms,
            factory_name=names.factory_name(factory_name) if factory_name else "",
        )
        created = self._operations.start(f"create station {name!r}", partial(plane.create_station, name, options))
        return Station(self._operations, plane, name, created)

    def producer(self, station_name: str, producer_name: str) -> Producer:
        """Registers a producer; a missing station is made with the broker's own defaults.

        Raises InvalidName, ConnectionClosed; awaited also AlreadyExists (another client uses the name), BrokerRefused.
        """
        plane, transport = self._opened()
        station, name = names.station_name(station_name), names.producer_name(producer_name)
        created = self._operations.start(
            f"create producer {name!r} of station {station!r}", partial(plane.create_producer, station, name)
        )
        return Producer(self._operations, plane, transport, station, name, created)

    def consumer(
        self,
        station_name: str,
        consumer_name: str,
        consumer_group: str = "",
        pull_interval_ms: int = 1000,
        batch_size: int = 10,
        batch_max_time_to_wait_ms: int = 5000,
        max_ack_time_ms: int = 30_000,
        max_msg_deliveries: int = 10,
    ) -> Consumer:
        """Joins a group (default: one named like the consumer), made where it is missing, as is its station.

        All members of a group share its messages. An existing group keeps its own `max_ack_time_ms` (milliseconds
        until an unacked message is delivered again) and `max_msg_deliveries` (classic Memphis: at most 10).
        Raises InvalidName, InvalidOption, ConnectionClosed; awaited also AlreadyExists (another client uses the
        name), BrokerRefused.
        """
        plane, transport = self._opened()
        options = ConsumerOptions(
            pull_interval_ms=pull_interval_ms,
            batch_size=batch_size,
            batch_max_time_to_wait_ms=batch_max_time_to_wait_ms,
            group=GroupOptions(max_ack_time_ms=max_ack_time_ms, max_msg_deliveries=max_msg_deliveries),
        )
        station, name = names.station_name(station_name), names.consumer_name(consumer_name)
        group = names.group_name(consumer_group) if consumer_group else name
        consumer = Consumer(self._operations, plane, transport, station, name, group, options)
        consumer.start()
        self._consumers.add(consumer)
        return consumer

    def _opened(self) -> tuple[ControlPlane, Transport]:
        if self._plane is None or self._transport is None:
            raise ConnectionClosed("not connected; await memphis.connect(...) first")
        if self._transport.closed:
            raise ConnectionClosed("the connection to the broker was lost and given up; connect again")
        return self._plane, self._transport


def _host(host: str | None) -> str:
    if not host:
        raise InvalidOption("connect() needs host=... with username and connection_token, or url=...")
    return re.sub(r"^https?://", "", host.strip(), flags=re.IGNORECASE).rstrip("/")


def _port(name: str, port: Port) -> int:
    try:
        return int(port)
    except ValueError:
        raise InvalidOption(f"{name} is {port!r}; it must be a port from 1 to 65535") from None
