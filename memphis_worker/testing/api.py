"""The part of the JetStream JSON API that the client reads: streams, groups and stored messages."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from memphis_worker.testing.durable import Durable

if TYPE_CHECKING:
    from memphis_worker.testing.memory import MemoryStream

__all__ = ["answer"]

Body = dict[str, Any]


def answer(streams: Mapping[str, MemoryStream], subject: str, body: Body, now_s: float) -> Body:
    """The reply to a request on `$JS.API.<subject>`. `now_s`: seconds of the broker's calendar."""
    tokens = subject.split(".")
    stream = streams.get(tokens[-1])
    match ".".join(tokens[:2]):
        case "STREAM.LIST":
            return {"total": len(streams), "streams": [_stream(each) for each in streams.values()]}
        case "CONSUMER.INFO" if tokens[2] in streams:
            group = streams[tokens[2]].groups.get(tokens[3])
            return _group(group, now_s) if group is not None else _error(10014, "consumer not found")
        case "STREAM.INFO" if stream is not None:
            return _stream(stream)
        case "CONSUMER.LIST" if stream is not None:
            groups = [_group(each, now_s) for each in stream.groups.values()]
            return {"total": len(groups), "consumers": groups}
        case "STREAM.MSG" if stream is not None:
            return _message(stream, tokens[2], body)
    return _error(10059, "stream not found")


def _message(stream: MemoryStream, verb: str, body: Body) -> Body:
    sequence = body["seq"]
    if body.get("next_by_subj"):
        sequence = min((each for each in stream.messages if each >= sequence), default=0)
    message = stream.messages.get(sequence)
    if message is None:
        return _error(10037, "no message found")
    if verb == "DELETE":
        del stream.messages[sequence]
        return {"success": True}
    when = datetime.fromtimestamp(message.stored_ns / 1e9, UTC)
    found = {"subject": message.subject.decode(), "seq": sequence, "time": when.isoformat()}
    found |= {"data": base64.b64encode(message.data).decode(), "hdrs": base64.b64encode(message.headers).decode()}
    return {"message": found}


def _group(group: Durable, now_s: float) -> Body:
    config = {
        "durable_name": group.name,
        "filter_subject": group.filter_subject,
        "ack_policy": "explicit",
        "ack_wait": int(group.ack_wait_s * 1e9),
        "max_deliver": group.max_deliver,
        "max_ack_pending": group.max_ack_pending,
    }
    return {
        "stream_name": group.stream,
        "name": group.name,
        "config": config,
        "num_pending": len(group.waiting),
        "num_ack_pending": len(group.flying),
        "num_redelivered": sum(1 for each in group.flying.values() if each.deliveries > 1),
        "num_waiting": len(group.pulls),
        "ack_floor": {"stream_seq": group.ack_floor},
        "delivered": {"stream_seq": max(group.deliveries, default=0)},
        "ts": datetime.fromtimestamp(now_s, UTC).isoformat(),
    }


def _stream(stream: MemoryStream) -> Body:
    config = {"name": stream.name, "subjects": [f"{stream.name}.>"], "storage": stream.options.storage_type}
    state = {"messages": len(stream.messages), "last_seq": stream.last, "consumer_count": len(stream.groups)}
    return {"config": config, "state": {**state, "first_seq": min(stream.messages, default=stream.last + 1)}}


def _error(err_code: int, words: str) -> Body:
    return {"error": {"code": 404, "err_code": err_code, "description": words}}
