"""One message to a station, confirmed: what `Producer.produce` and `App.produce` share."""

from __future__ import annotations

from collections.abc import Mapping

from memphis_worker.client.control.plane import ControlPlane
from memphis_worker.client.headers import encode_headers, is_server_header
from memphis_worker.client.jetstream import PubAck, publish_confirmed
from memphis_worker.client.transport import Transport
from memphis_worker.errors import InvalidOption, Missing, ProduceFailed, RequestTimeout

__all__ = ["produce"]


async def produce(
    plane: ControlPlane,
    transport: Transport,
    station: str,
    payload: bytes,
    *,
    producer: str,
    msg_id: str,
    headers: Mapping[str, str] | None = None,
    timeout_s: float,
) -> PubAck:
    """Returns what the station has confirmed. `msg_id` goes out under both names that brokers read it from.

    Raises Missing (no such station; nothing was stored), ProduceFailed (not confirmed: it may have been stored),
    PayloadTooLarge, InvalidOption (a header that is the broker's or ours), InvalidName, Disconnected.
    """
    if headers is not None and not isinstance(headers, Mapping):
        raise InvalidOption(f"headers is a {type(headers).__name__}; it must be a dict of names and values")
    for name in headers or {}:
        if is_server_header(name) or name.lower() in ("msg-id", "producedby", "connectionid"):
            raise InvalidOption(f"header {name!r} is read by the broker; use another name, and msg_id= for the id")
    block = encode_headers(
        [
            ("Nats-Msg-Id", msg_id),
            *plane.message_headers(producer),
            ("msg-id", msg_id),
            *(headers or {}).items(),
        ]
    )
    try:
        return await publish_confirmed(transport, plane.produce_subject(station), payload, block, timeout_s=timeout_s)
    except Missing as exc:
        raise Missing(f"station {station!r} does not exist; create it first, or check its name") from exc
    except RequestTimeout as exc:
        raise ProduceFailed(
            f"station {station!r} did not confirm a message within {timeout_s:g} s; it may have been stored, "
            "and the same msg_id within the dedup window is not stored twice"
        ) from exc
