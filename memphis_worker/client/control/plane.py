"""The control plane: creates and destroys stations, producers and consumer groups, and signs in.

A plane decides nothing about messages. Three exist: `classic` (Memphis up to 0.3.0), and later native and JetStream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from memphis_worker.options import GroupOptions, StationOptions

__all__ = ["ControlPlane", "DataPlane", "Pullable", "StationInfo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPlane:
    """Where messages flow, as the sign-in gave it."""

    servers: tuple[str, ...]
    """`nats://host:port`, without credentials."""
    token: str | None = field(default=None, repr=False)
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    name: str = "memphis-worker"
    """Connection name; native Memphis reads presence from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pullable:
    """One stream and durable that a consumer group pulls from."""

    stream: str
    durable: str
    ack_wait_s: float
    max_deliver: int
    """What the broker allows: it never delivers a message more often. -1: no limit."""
    resent_subject: str | None = None
    """Where the broker sends a dead letter again for its group, when its operator asks for it: core NATS, no reply,
    not stored. Members subscribe with the subject as their queue. `None`: this broker sends nothing again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StationInfo:
    """What the broker says of a station. `None` where it does not say."""

    name: str
    retention_type: str | None = None
    retention_value: int | None = None
    storage_type: str | None = None
    replicas: int | None = None
    dedup_enabled: bool | None = None
    dedup_window_ms: int | None = None
    factory_name: str | None = None


class ControlPlane(Protocol):
    """One signed-in session with a broker. Creates run one at a time: they are not atomic on a real broker."""

    async def open(self) -> DataPlane:
        """Signs in. Raises NotReachable, AuthenticationFailed, BrokerRefused."""

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls `callback` after each change of `connected`; returns a function that ends it."""

    @property
    def connected(self) -> bool:
        """Whether the session stands. Messages flow without it; creates and destroys do not."""

    def message_headers(self, producer_name: str) -> list[tuple[str, str]]:
        """The headers that this broker wants on every message."""

    def produce_subject(self, station: str) -> str:
        """What a message for the station is published to. Raises InvalidName."""

    async def create_factory(self, name: str, description: str) -> str:
        """Makes it, or finds it. Returns its name as the broker writes it."""

    async def destroy_factory(self, name: str) -> None:
        """Removes it with all its stations. Raises Missing."""

    async def create_station(self, name: str, options: StationOptions) -> str:
        """Makes it, or finds it unchanged. Returns its name as the broker writes it."""

    async def destroy_station(self, name: str) -> None:
        """Removes it with its messages. Raises Missing."""

    async def stations(self) -> list[StationInfo]:
        """All stations, by name."""

    async def station(self, name: str) -> StationInfo | None:
        """One station, `None` where it is missing."""

    async def create_producer(self, station: str, name: str) -> None:
        """Registers a producer. Raises AlreadyExists, BrokerRefused."""

    async def destroy_producer(self, station: str, name: str) -> None:
        """Raises Missing."""

    async def create_consumer(self, station: str, name: str, group: str, options: GroupOptions) -> list[Pullable]:
        """Joins the group under this name, making the group where it is missing.

        Returns what to pull from. Raises AlreadyExists, BrokerRefused.
        """

    async def destroy_consumer(self, station: str, name: str) -> None:
        """Leaves the group for good; the last member takes the group's progress along. Raises Missing."""

    async def close(self) -> None:
        """Ends the session. Groups and their progress stay. Never raises."""
