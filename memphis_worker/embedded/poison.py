"""Dead letters of Memphis 0.3.0: messages whose deliveries are used up ("poison messages").

nats-server tells by an advisory, which it sends only when a pull is there to serve; the message is then read by its
sequence and copied. Source: tests/wire/classic/http.jsonl part C, deadletters.jsonl.
"""

from __future__ import annotations

import json
import time

from memphis_worker.embedded.endpoint import Call, Endpoint
from memphis_worker.embedded.fields import Field, required
from memphis_worker.embedded.gojson import date_ms, parse_date, raw_text, text
from memphis_worker.embedded.http import Reply, ok, panicked, server_error, showable
from memphis_worker.embedded.ids import parse_id
from memphis_worker.embedded.jetstream import JetStream, JetStreamError, Stored
from memphis_worker.embedded.members import Members
from memphis_worker.embedded.state import Consumer, Poison, PoisonedGroup, Producer, State, Station, newest

ADVISORIES = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>"
QUEUE = "$memphis_poison_messages_listeners_group"
RESENT = "$memphis_dlq"
PRODUCED_BY = "producedBy"
CONNECTION_ID = "connectionId"
_NO_HEADERS = (
    "Error while getting notified about a poison message: "
    "Missing mandatory message headers, please upgrade the SDk version you are using"
)


class Poisons:
    """Records them, lists them, acks and resends them."""

    def __init__(self, state: State, jetstream: JetStream, members: Members) -> None:
        self._state = state
        self._jetstream = jetstream
        self._members = members

    def endpoints(self) -> list[Endpoint]:
        """The routes."""
        base = "/api/stations"
        ids = (Field(name="poison_message_ids", kind="ids", required=True),)
        details = (
            Field(name="is_poison_message", kind="bool"),
            Field(name="message_id"),
            Field(name="message_seq", kind="int"),
            *required("station_name"),
        )
        return [
            Endpoint(method="GET", path=f"{base}/getMessageDetails", handler=self.get_message_details, fields=details),
            Endpoint(
                method="GET",
                path=f"{base}/getPoisonMessageJourney",
                handler=self.get_journey,
                fields=required("message_id"),
            ),
            Endpoint(method="POST", path=f"{base}/ackPoisonMessages", handler=self.ack, fields=ids),
            Endpoint(method="POST", path=f"{base}/resendPoisonMessages", handler=self.resend, fields=ids),
        ]

    async def listen(self) -> None:
        """From here on exhausted deliveries become records."""
        await self._jetstream.subscribe(ADVISORIES, QUEUE, self.receive)

    async def receive(self, subject: str, data: bytes) -> None:
        """One advisory. A message without both headers, or one that was resent, never becomes a record."""
        advisory = json.loads(data)
        message = await self._jetstream.message(advisory["stream"], advisory["stream_seq"])
        producer = message.headers.get(PRODUCED_BY)
        if producer is None or CONNECTION_ID not in message.headers or producer == RESENT:
            return
        poison = self._find(advisory["stream"], message) or self._add(advisory["stream"], message)
        now = time.time_ns()
        group = PoisonedGroup(name=advisory["consumer"], at=now, deliveries=advisory["deliveries"])
        poison.groups = [*(other for other in poison.groups if other.name != group.name), group]
        poison.at = now
        self._state.save()

    def _find(self, station: str, message: Stored) -> Poison | None:
        producer, sent = message.headers[PRODUCED_BY], parse_date(message.time)
        for poison in self._state.poisons:
            same_place = poison.station == station and poison.sequence == message.sequence
            if same_place and poison.producer == producer and poison.time_sent == sent:
                return poison
        return None

    def _add(self, station: str, message: Stored) -> Poison:
        poison = Poison(
            at=time.time_ns(),
            station=station,
            sequence=message.sequence,
            producer=message.headers[PRODUCED_BY],
            connection_id=message.headers[CONNECTION_ID],
            time_sent=parse_date(message.time),
            size=message.size,
            data=text(message.data),
        )
        self._state.poisons.append(poison)
        return poison

    async def get_message_details(self, call: Call) -> Reply:
        """A message by sequence, or a record by id (then any station will do)."""
        if call.values["is_poison_message"]:
            return await self._journey(call.values["message_id"])
        station = self._state.station(call.values["station_name"].lower())
        if station is None:
            raise showable("Station does not exist")
        try:
            message = await self._jetstream.message(station.name, call.values["message_seq"])
        except JetStreamError as error:
            raise panicked() from error
        if PRODUCED_BY not in message.headers or CONNECTION_ID not in message.headers:
            raise showable(_NO_HEADERS)
        producer = self._producer(station, message.headers[PRODUCED_BY], message.headers[CONNECTION_ID])
        poison = self._find(station.name, message)
        groups = [await self._group(station, group, with_members=False) for group in poison.groups] if poison else []
        return ok(
            {
                "message_seq": message.sequence,
                "producer": self._producer_item(producer),
                "poisoned_cgs": groups,
                "message": {"time_sent": message.time, "size": message.size, "data": raw_text(message.data)},
            }
        )

    async def get_journey(self, call: Call) -> Reply:
        """One record with its groups and their members."""
        return await self._journey(call.values["message_id"])

    async def _journey(self, written: str) -> Reply:
        poison = next((poison for poison in self._state.poisons if poison.id == parse_id(written)), None)
        station = self._state.station(poison.station) if poison else None
        if poison is None or station is None:
            raise showable("Poison message does not exist")
        producer = self._producer(station, poison.producer, poison.connection_id)
        return ok(
            {
                "_id": poison.id,
                "station_name": poison.station,
                "message_seq": poison.sequence,
                "producer": self._producer_item(producer),
                "poisoned_cgs": [await self._group(station, group, with_members=True) for group in poison.groups],
                "message": {"time_sent": date_ms(poison.time_sent), "size": poison.size, "data": poison.data},
                "creation_date": date_ms(poison.at),
            }
        )

    async def ack(self, call: Call) -> Reply:
        """Forgets the records; JetStream is not touched. Unknown ids are no error."""
        ids = set(call.values["poison_message_ids"])
        self._state.poisons = [poison for poison in self._state.poisons if poison.id not in ids]
        return ok({})

    async def resend(self, call: Call) -> Reply:
        """A core publish for each group of each record: only who is subscribed now gets it. The records stay."""
        ids = set(call.values["poison_message_ids"])
        for poison in [poison for poison in self._state.poisons if poison.id in ids]:
            for group in poison.groups:
                subject = f"{RESENT}_{poison.station}_{group.name}"
                await self._jetstream.publish(subject, poison.data.encode(), {PRODUCED_BY: RESENT})
        return ok({})

    def _producer(self, station: Station, name: str, connection_id: str) -> Producer:
        """By the header as typed: 500 for a name in another case, or of another connection."""
        wanted = parse_id(connection_id)
        for record in self._state.producers:
            if (record.name, record.connection_id, record.station_id) == (name, wanted, station.id):
                return record
        raise server_error()

    def _producer_item(self, producer: Producer) -> dict[str, object]:
        return {
            "name": producer.name,
            "client_address": self._members.address(producer),
            "connection_id": producer.connection_id,
            "created_by_user": producer.created_by_user,
            "is_active": producer.is_active,
            "is_deleted": producer.is_deleted,
        }

    async def _group(self, station: Station, group: PoisonedGroup, *, with_members: bool) -> dict[str, object]:
        members = self._state.members(station, group.name)
        try:
            info = await self._jetstream.request(f"CONSUMER.INFO.{station.name}.{group.name}")
        except JetStreamError as error:
            raise server_error() from error
        return {
            "cg_name": group.name,
            "poisoning_time": date_ms(group.at),
            "deliveries_count": group.deliveries,
            "unprocessed_messages": info["num_pending"],
            "max_ack_time_ms": members[-1].max_ack_time_ms,
            "in_process_messages": info["num_ack_pending"],
            "total_poison_messages": self.count(station.name, group.name),
            "max_msg_deliveries": members[-1].max_msg_deliveries,
            "cg_members": [self._member(member) for member in newest(members)] if with_members else None,
            "is_active": any(member.is_active for member in members),
            "is_deleted": all(member.is_deleted for member in members),
        }

    def count(self, station: str, group: str) -> int:
        """The records of a group."""
        mine = (poison for poison in self._state.poisons if poison.station == station)
        return sum(any(poisoned.name == group for poisoned in poison.groups) for poison in mine)

    def _member(self, member: Consumer) -> dict[str, object]:
        return {
            "name": member.name,
            "client_address": self._members.address(member),
            "is_active": member.is_active,
            "is_deleted": member.is_deleted,
            "created_by_user": member.created_by_user,
            "max_msg_deliveries": member.max_msg_deliveries,
            "max_ack_time_ms": member.max_ack_time_ms,
        }
