"""A producer: sends messages to a station and returns when the broker has confirmed them."""

from __future__ import annotations

import uuid
from collections.abc import Generator, Mapping

from memphis_worker.client.connected import until_connected
from memphis_worker.client.control.plane import ControlPlane
from memphis_worker.client.jetstream import PubAck
from memphis_worker.client.operation import Operation, Operations
from memphis_worker.client.produce import produce
from memphis_worker.client.transport import Transport
from memphis_worker.errors import InvalidOption, Missing, ProduceFailed

__all__ = ["Producer"]


class Producer:
    """Made by `Memphis.producer`, which has started to create it: await it, or the first use waits.

    As a context manager it is confirmed on entry; leaving destroys nothing.
    """

    def __init__(
        self,
        operations: Operations,
        plane: ControlPlane,
        transport: Transport,
        station: str,
        name: str,
        created: Operation,
    ) -> None:
        self._operations = operations
        self._plane = plane
        self._transport = transport
        self.station_name = station
        self.producer_name = name
        self._created = created
        self._destroyed: Operation | None = None

    def __repr__(self) -> str:
        return f"<Producer {self.producer_name} of {self.station_name}>"

    def __await__(self) -> Generator[object, None, Producer]:
        return self._confirmed().__await__()

    async def __aenter__(self) -> Producer:
        return await self

    async def __aexit__(self, *exc: object) -> None:
        pass

    async def produce(
        self,
        message: bytes | bytearray | memoryview | str,
        ack_wait_sec: float = 15,
        headers: Mapping[str, str] | None = None,
        msg_id: str | None = None,
    ) -> PubAck:
        """Returns when the station has stored the message; a str is sent as UTF-8.

        `ack_wait_sec`: seconds that the confirmation, and before it a reconnect, may take. `msg_id`: within the
        station's dedup window the same id is stored once (`PubAck.duplicate`); without one each message gets its own.
        Raises ProduceFailed (not confirmed: it may have been stored), PayloadTooLarge, InvalidOption (a header that
        is the broker's or ours), Disconnected, ConnectionClosed, Missing (destroyed), and the error of its creation.
        """
        if self._destroyed is not None:
            raise Missing(f"{self!r} was destroyed; make a new producer")
        payload = _payload(message)
        await self._created
        await until_connected(self._transport, ack_wait_sec)
        try:
            return await produce(
                self._plane,
                self._transport,
                self.station_name,
                payload,
                producer=self.producer_name,
                msg_id=msg_id or str(uuid.uuid4()),
                headers=headers,
                timeout_s=ack_wait_sec,
            )
        except Missing as exc:
            raise ProduceFailed(f"station {self.station_name!r} does not exist (any more); nothing was stored") from exc

    def destroy(self) -> Operation:
        """Removes the producer from the broker; its messages stay. Starts at once; awaitable.

        Raises, when awaited: Missing, BrokerRefused, and the error of its own creation.
        """
        if self._destroyed is None:
            self._destroyed = self._operations.start(
                f"destroy producer {self.producer_name!r} of station {self.station_name!r}", self._destroy
            )
        return self._destroyed

    async def _confirmed(self) -> Producer:
        await self._created
        return self

    async def _destroy(self) -> None:
        await self._created
        await self._plane.destroy_producer(self.station_name, self.producer_name)


def _payload(message: bytes | bytearray | memoryview | str) -> bytes:
    if isinstance(message, str):
        return message.encode()
    if isinstance(message, bytes | bytearray | memoryview):
        return bytes(message)
    raise InvalidOption(f"message is a {type(message).__name__}; it must be bytes, a bytearray or a str")
