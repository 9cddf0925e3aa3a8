"""The control plane's own connection to nats-server: JetStream API requests as exact JSON, core publishes."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from memphis_worker.embedded import gojson
from memphis_worker.errors import BrokerError
from memphis_worker.failure import failure
from memphis_worker.log import get_logger

log = get_logger(__name__)

REQUEST_S = 5.0
CONNECT_S = 5.0
RECONNECT_WAIT_S = 0.1
NAME_IN_USE = 10058
"""nats-server's error code for a stream that exists with another configuration."""

Sink = Callable[[str, bytes], Awaitable[None]]


class JetStreamError(Exception):
    """nats-server's answer is an error, or there was none in time (`code` 0)."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code

    @property
    def shown(self) -> str:
        """The text as Memphis 0.3.0 shows it: lower case; `memphis-broker: ` before what its NATS client says."""
        if self.code == NAME_IN_USE:
            return "memphis-broker: stream name already in use"
        return str(self).lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A message of a stream. `size` as Memphis counts it: subject, data, header names and their first values."""

    sequence: int
    subject: str
    data: bytes
    headers: Mapping[str, str]
    time: str

    @property
    def size(self) -> int:
        """Bytes."""
        headers = sum(len(key.encode()) + len(value.encode()) for key, value in self.headers.items())
        return len(self.subject.encode()) + len(self.data) + headers


class JetStream:
    """Requests go on waiting over a restart of nats-server; the subscription is made anew by itself."""

    def __init__(self) -> None:
        self._client = Client()
        self._was_connected = False

    async def connect(self, url: str, token: str) -> None:
        """Returns when JetStream answers. `BrokerError` when it does not."""
        try:
            await self._client.connect(
                url,
                token=token,
                name="memphis-control-plane",
                connect_timeout=int(CONNECT_S),
                max_reconnect_attempts=1,
                error_cb=_on_error,
            )
            await self.request("INFO")
        except (nats.errors.Error, OSError, JetStreamError) as error:
            raise BrokerError(f"the embedded nats-server does not answer: {error}") from error
        self._was_connected = True
        # Only now: before the first connect it would try for ever.
        self._client.options["max_reconnect_attempts"] = -1
        self._client.options["reconnect_time_wait"] = RECONNECT_WAIT_S

    async def close(self) -> None:
        """Ends the connection."""
        if self._was_connected:  # nats-py cannot close what was never open
            await self._client.close()

    @property
    def is_connected(self) -> bool:
        """Whether nats-server is there."""
        return self._client.is_connected

    async def request(self, api: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
        """The reply of `$JS.API.<api>`. `JetStreamError` for an error in it, or for none within 5 s."""
        payload = b"" if body is None else json.dumps(body).encode()
        try:
            reply = await self._client.request(f"$JS.API.{api}", payload, timeout=REQUEST_S)
        except (nats.errors.TimeoutError, nats.errors.NoRespondersError):
            raise JetStreamError("context deadline exceeded") from None
        except nats.errors.ConnectionClosedError:
            raise JetStreamError("memphis-broker: connection closed") from None
        answer: dict[str, Any] = json.loads(reply.data)
        if "error" in answer:
            error = answer["error"]
            raise JetStreamError(error.get("description", ""), error.get("err_code", error.get("code", 0)))
        return answer

    async def message(self, stream: str, sequence: int) -> Stored:
        """The stored message. `JetStreamError` when it is not there."""
        answer = await self.request(f"STREAM.MSG.GET.{stream}", {"seq": sequence})
        found = answer["message"]
        return Stored(
            sequence=found["seq"],
            subject=found["subject"],
            data=base64.b64decode(found.get("data", "")),
            headers=parse_headers(base64.b64decode(found.get("hdrs", ""))),
            time=found["time"],
        )

    async def publish(self, subject: str, payload: bytes, headers: dict[str, str]) -> None:
        """A core publish: only who is subscribed now gets it."""
        await self._client.publish(subject, payload, headers=headers)

    async def subscribe(self, subject: str, queue: str, sink: Sink) -> None:
        """`sink(subject, data)` for each message, one at a time."""

        async def receive(message: Msg) -> None:
            try:
                await sink(message.subject, message.data)
            except JetStreamError as error:
                log.warning("advisory.ignored", subject=message.subject, error=str(error))
            except Exception as exc:  # nats-py's reader must not see an error of ours  # noqa: BLE001
                log.error("advisory.failed", subject=message.subject, **failure(exc))

        await self._client.subscribe(subject, queue=queue, cb=receive)

    async def latest(self, stream: str, subject: str, most: int) -> list[Stored]:
        """The newest messages on the subject, at most `most`, oldest first."""
        state = (await self.request(f"STREAM.INFO.{stream}"))["state"]
        config = {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": max(1, state["first_seq"], state["last_seq"] - most + 1),
            "ack_policy": "none",
            "filter_subject": subject,
            "inactive_threshold": 5_000_000_000,
            "mem_storage": True,
        }
        made = await self.request(f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config})
        try:
            return await self._pull(stream, made["name"], min(most, made["num_pending"]))
        finally:
            await self.request(f"CONSUMER.DELETE.{stream}.{made['name']}")

    async def _pull(self, stream: str, consumer: str, count: int) -> list[Stored]:
        if count == 0:
            return []
        inbox = self._client.new_inbox()
        arrived: asyncio.Queue[Msg] = asyncio.Queue()
        subscription = await self._client.subscribe(inbox, cb=arrived.put)
        try:
            wanted = json.dumps({"batch": count, "no_wait": True}).encode()
            await self._client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}", wanted, reply=inbox)
            found: list[Stored] = []
            async with asyncio.timeout(REQUEST_S):
                while len(found) < count and (message := await arrived.get()).reply:  # a status has no reply subject
                    found.append(_delivered(message))
            return found
        except TimeoutError:
            raise JetStreamError("context deadline exceeded") from None
        finally:
            await subscription.unsubscribe()


def _delivered(message: Msg) -> Stored:
    """The place is in the reply subject: `$JS.ACK.<stream>.<consumer>.<n>.<sequence>.<n>.<nanoseconds>.<pending>`."""
    tokens = message.reply.split(".")
    return Stored(
        sequence=int(tokens[-4]),
        subject=message.subject,
        data=message.data,
        headers=dict(message.headers or {}),
        time=gojson.date_ns(int(tokens[-2])),
    )


def parse_headers(raw: bytes) -> dict[str, str]:
    """NATS headers, `NATS/1.0` line included, with the first value of each name."""
    found: dict[str, str] = {}
    for line in raw.decode("utf-8", "replace").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name, value.strip())
    return found


async def _on_error(error: Exception) -> None:
    log.debug("nats.error", error=repr(error))
