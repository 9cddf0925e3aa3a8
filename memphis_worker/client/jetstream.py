"""The JetStream JSON API as plain functions over a Transport: confirmed publishes, and reads of streams and groups.

Requests and replies as in the NATS docs, "JetStream wire API", and nats-server `server/jetstream_api.go` (2.8 to 2.15).
Unknown fields are skipped and nothing read here is ever written back. Times are seconds, sizes bytes.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from memphis_worker.client.headers import status_of
from memphis_worker.client.transport import Transport
from memphis_worker.errors import BrokerRefused, Missing, NotReachable, PayloadTooLarge, ProduceFailed

__all__ = [
    "ConsumerInfo",
    "GroupLag",
    "PubAck",
    "StoredMessage",
    "StreamInfo",
    "consumer_info",
    "consumers",
    "delete_message",
    "group_lag",
    "message_at",
    "publish_confirmed",
    "stream_info",
    "streams",
]

_CONSUMER_NOT_FOUND = 10014
_MESSAGE_TOO_LARGE = 10054
#: err_code -> what is missing (nats-server `server/errors.json`).
_MISSING = {_CONSUMER_NOT_FOUND: "consumer group", 10037: "message", 10059: "stream"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PubAck:
    """What the broker says of a stored message."""

    stream: str
    sequence: int
    duplicate: bool
    """The message id was there already: nothing was stored, and `sequence` is the first one's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamInfo:
    """One stream: how it is made, and what is in it."""

    name: str
    subjects: tuple[str, ...]
    retention: str
    """`limits`, `interest` or `workqueue`."""
    storage: str
    """`file` or `memory`."""
    replicas: int
    max_messages: int
    """-1: no limit; likewise the next one."""
    max_bytes: int
    max_age_s: float
    """0: no limit."""
    dedup_window_s: float
    messages: int
    bytes: int
    first_sequence: int
    last_sequence: int
    consumers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerInfo:
    """One durable: what delivery depends on, and how far it is."""

    stream: str
    name: str
    filter_subject: str
    """Empty: all subjects of the stream."""
    ack_policy: str
    pull: bool
    ack_wait_s: float
    max_deliver: int
    """-1: no limit; likewise `max_ack_pending`."""
    max_ack_pending: int
    waiting: int
    """Messages that were never delivered."""
    in_flight: int
    """Delivered and not acked."""
    redelivered: int
    """Delivered more than once and not acked."""
    ack_floor: int
    """Everything up to this stream sequence is acked or given up."""
    delivered: int
    """The highest stream sequence that was delivered."""
    open_pulls: int
    read_at: datetime | None
    """The server's clock; `None` before nats-server 2.10."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMessage:
    """A message as the stream keeps it, read without delivering it."""

    subject: str
    sequence: int
    stored_at: datetime
    headers: bytes = field(repr=False)
    """The raw block, or `b""`."""
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLag:
    """How far a group is behind."""

    station: str
    group: str
    waiting: int
    """Messages that were never delivered."""
    in_flight: int
    """Delivered and not acked."""
    redelivered: int
    """Delivered more than once and not acked."""
    oldest_age_s: float | None
    """Age of the oldest message that waits or is in flight [s]; `None` when there is none."""


async def publish_confirmed(
    transport: Transport, subject: str, payload: bytes, headers: bytes = b"", *, timeout_s: float
) -> PubAck:
    """Publishes and returns what the stream has confirmed.

    Raises Missing (no stream takes the subject), ProduceFailed (the stream refused it), PayloadTooLarge;
    RequestTimeout and Disconnected, after which it may be stored all the same.
    """
    frame = await transport.request(subject, payload, headers=headers, timeout_s=timeout_s)
    if status_of(frame.headers)[0] == 503:
        raise Missing(f"no station takes messages on {subject!r}; create the station first, or check its name")
    try:
        reply = json.loads(frame.payload)
        error = reply.get("error")
        if error is None:
            return PubAck(
                stream=reply["stream"], sequence=reply.get("seq", 0), duplicate=reply.get("duplicate") is True
            )
    except (ValueError, RecursionError, AttributeError, KeyError) as exc:
        raise ProduceFailed(f"the answer to a message on {subject!r} is no confirmation of a stream") from exc
    if not isinstance(error, dict):
        raise ProduceFailed(f"the broker did not store a message on {subject!r}: {error}")
    words = error.get("description", "")
    if error.get("err_code") == _MESSAGE_TOO_LARGE:
        raise PayloadTooLarge(f"the station of {subject!r} refused {len(payload)} bytes: {words}")
    raise ProduceFailed(f"the broker did not store a message on {subject!r}: {words}")


async def stream_info(transport: Transport, stream: str, *, timeout_s: float = 5.0) -> StreamInfo:
    """Raises Missing, NotReachable (JetStream is not up), BrokerRefused, RequestTimeout."""
    return _stream(await _ask(transport, f"STREAM.INFO.{stream}", None, f"stream {stream!r}", timeout_s))


async def consumer_info(transport: Transport, stream: str, durable: str, *, timeout_s: float = 5.0) -> ConsumerInfo:
    """Raises Missing, NotReachable (JetStream is not up), BrokerRefused, RequestTimeout."""
    what = f"consumer group {durable!r} of station {stream!r}"
    return _consumer(await _ask(transport, f"CONSUMER.INFO.{stream}.{durable}", None, what, timeout_s))


async def streams(transport: Transport, *, timeout_s: float = 5.0) -> list[StreamInfo]:
    """All streams, by name, the broker's internal ones too."""
    found = [_stream(item) async for item in _pages(transport, "STREAM.LIST", "streams", "list of streams", timeout_s)]
    return sorted(found, key=lambda info: info.name)


async def consumers(transport: Transport, stream: str, *, timeout_s: float = 5.0) -> list[ConsumerInfo]:
    """All durables of a stream, by name. Raises Missing."""
    pages = _pages(transport, f"CONSUMER.LIST.{stream}", "consumers", f"stream {stream!r}", timeout_s)
    return sorted([_consumer(item) async for item in pages], key=lambda info: info.name)


async def message_at(
    transport: Transport, stream: str, sequence: int, *, next_on: str | None = None, timeout_s: float = 5.0
) -> StoredMessage:
    """The message at this sequence, or with `next_on` the first one on that subject from there on. Raises Missing."""
    body: dict[str, Any] = {"seq": sequence}
    if next_on is not None:
        body["next_by_subj"] = next_on
    what = f"message {sequence} of station {stream!r}"
    message = (await _ask(transport, f"STREAM.MSG.GET.{stream}", body, what, timeout_s))["message"]
    return StoredMessage(
        subject=message["subject"],
        sequence=message["seq"],
        stored_at=_time(message["time"]),
        headers=base64.b64decode(message.get("hdrs", "")),
        data=base64.b64decode(message.get("data", "")),
    )


async def delete_message(transport: Transport, stream: str, sequence: int, *, timeout_s: float = 5.0) -> None:
    """Removes one message from the stream, without overwriting its bytes first. Raises Missing."""
    what = f"message {sequence} of station {stream!r}"
    await _ask(transport, f"STREAM.MSG.DELETE.{stream}", {"seq": sequence, "no_erase": True}, what, timeout_s)


async def group_lag(transport: Transport, stream: str, durable: str, *, timeout_s: float = 5.0) -> GroupLag:
    """Counts, and the age of the first message behind the ack floor: one or two requests. Raises Missing."""
    info = await consumer_info(transport, stream, durable, timeout_s=timeout_s)
    age: float | None = None
    if info.waiting or info.in_flight:
        age = await _oldest_age_s(transport, info, timeout_s)
    return GroupLag(
        station=stream,
        group=durable,
        waiting=info.waiting,
        in_flight=info.in_flight,
        redelivered=info.redelivered,
        oldest_age_s=age,
    )


async def _oldest_age_s(transport: Transport, info: ConsumerInfo, timeout_s: float) -> float | None:
    subject, first = info.filter_subject or ">", info.ack_floor + 1
    try:
        oldest = await message_at(transport, info.stream, first, next_on=subject, timeout_s=timeout_s)
    except Missing:  # a server before 2.9 knows no next_by_subj; else acked, or aged out, since the first request
        kept = (await stream_info(transport, info.stream, timeout_s=timeout_s)).first_sequence
        try:
            oldest = await message_at(transport, info.stream, max(kept, first), timeout_s=timeout_s)
        except Missing:
            return None
    now = info.read_at or datetime.now(UTC)
    return max(0.0, (now - oldest.stored_at).total_seconds())


async def _ask(
    transport: Transport, subject: str, body: dict[str, Any] | None, what: str, timeout_s: float
) -> dict[str, Any]:
    payload = b"" if body is None else json.dumps(body).encode()
    frame = await transport.request(f"$JS.API.{subject}", payload, timeout_s=timeout_s)
    if status_of(frame.headers)[0] == 503:
        raise NotReachable(f"{what}: JetStream does not answer on this server (yet); is it enabled?")
    try:
        reply: object = json.loads(frame.payload)
    except (ValueError, RecursionError) as exc:
        raise BrokerRefused(f"{what}: the server's answer is not JSON") from exc
    if not isinstance(reply, dict):
        raise BrokerRefused(f"{what}: the server's answer is not a JSON object")
    error = reply.get("error")
    if error is None:
        return reply
    if not isinstance(error, dict):
        raise BrokerRefused(f"{what}: {error}")
    words = error.get("description", "no reason given")
    if error.get("code") == 503:  # JetStream starts, or the cluster has no leader
        raise NotReachable(f"{what}: JetStream does not answer ({words}); is it enabled?")
    missing = _MISSING.get(error.get("err_code", 0))
    if missing is not None:
        raise Missing(f"{what} does not exist: {words}")
    raise BrokerRefused(f"{what}: {words}")


async def _pages(
    transport: Transport, subject: str, key: str, what: str, timeout_s: float
) -> AsyncIterator[dict[str, Any]]:
    offset = 0
    while True:
        page = await _ask(transport, subject, {"offset": offset}, what, timeout_s)
        items = page.get(key) or []
        for item in items:
            yield item
        offset += len(items)
        if not items or offset >= page.get("total", 0):
            return


def _stream(reply: dict[str, Any]) -> StreamInfo:
    config, state = reply["config"], reply["state"]
    return StreamInfo(
        name=config["name"],
        subjects=tuple(config.get("subjects") or ()),
        retention=config.get("retention", "limits"),
        storage=config.get("storage", "file"),
        replicas=config.get("num_replicas", 1),
        max_messages=config.get("max_msgs", -1),
        max_bytes=config.get("max_bytes", -1),
        max_age_s=config.get("max_age", 0) / 1e9,
        dedup_window_s=config.get("duplicate_window", 0) / 1e9,
        messages=state.get("messages", 0),
        bytes=state.get("bytes", 0),
        first_sequence=state.get("first_seq", 0),
        last_sequence=state.get("last_seq", 0),
        consumers=state.get("consumer_count", 0),
    )


def _consumer(reply: dict[str, Any]) -> ConsumerInfo:
    config = reply["config"]
    read_at = reply.get("ts")
    return ConsumerInfo(
        stream=reply["stream_name"],
        name=reply["name"],
        filter_subject=config.get("filter_subject", ""),
        ack_policy=config.get("ack_policy", "none"),
        pull=not config.get("deliver_subject"),
        ack_wait_s=config.get("ack_wait", 0) / 1e9,
        max_deliver=config.get("max_deliver", -1),
        max_ack_pending=config.get("max_ack_pending", -1),
        waiting=reply.get("num_pending", 0),
        in_flight=reply.get("num_ack_pending", 0),
        redelivered=reply.get("num_redelivered", 0),
        ack_floor=reply.get("ack_floor", {}).get("stream_seq", 0),
        delivered=reply.get("delivered", {}).get("stream_seq", 0),
        open_pulls=reply.get("num_waiting", 0),
        read_at=_time(read_at) if read_at else None,
    )


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as exc:
        raise BrokerRefused(f"the server gave a time that cannot be read: {text!r}") from exc
