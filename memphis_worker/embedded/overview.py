"""What the UI shows: overviews, logs, versions. Source: Memphis 0.3.0 (tests/wire/classic/http.jsonl)."""

from __future__ import annotations

import asyncio
import re
import time

from memphis_worker.embedded import gojson
from memphis_worker.embedded.endpoint import Call, Endpoint
from memphis_worker.embedded.fields import Field, required
from memphis_worker.embedded.http import JSON, Reply, ok, panicked, server_error, showable
from memphis_worker.embedded.jetstream import JetStream, JetStreamError, Stored
from memphis_worker.embedded.members import Members
from memphis_worker.embedded.poison import CONNECTION_ID, PRODUCED_BY, RESENT, Poisons
from memphis_worker.embedded.settings import VERSION, Settings
from memphis_worker.embedded.state import Consumer, Poison, State, Station, newest
from memphis_worker.embedded.stations import Stations

LISTED_MESSAGES = 1000
PREVIEW = 100
"""Bytes of a message in a list."""
AUDIT_NS = 5 * 86_400 * 1_000_000_000
HOUR_NS = 3600 * 1_000_000_000
_INTERNAL = "$memphis"
Item = dict[str, object]


class Overview:
    """The endpoints below /api/monitoring, the logs, and those that answer the same to everybody."""

    def __init__(
        self,
        *,
        state: State,
        settings: Settings,
        jetstream: JetStream,
        stations: Stations,
        members: Members,
        poisons: Poisons,
    ) -> None:
        self._state = state
        self._settings = settings
        self._jetstream = jetstream
        self._stations = stations
        self._members = members
        self._poisons = poisons

    def endpoints(self) -> list[Endpoint]:
        """The routes."""
        monitoring, users = "/api/monitoring", "/api/usermgmt"
        station, hours = required("station_name"), (Field(name="hours", required=True),)
        return [
            Endpoint(method="GET", path="/api/status", handler=self.status, open=True),
            Endpoint(method="GET", path=f"{monitoring}/getClusterInfo", handler=self.cluster_info),
            Endpoint(method="GET", path=f"{monitoring}/getMainOverviewData", handler=self.main),
            Endpoint(method="GET", path=f"{monitoring}/getStationOverviewData", handler=self.station, fields=station),
            Endpoint(method="GET", path=f"{monitoring}/writeSysLog", handler=self.nothing, open=True),
            Endpoint(method="GET", path="/api/logs/getSysLogs", handler=self.system_logs, fields=hours, open=True),
            Endpoint(method="GET", path=f"{users}/getCompanyLogo", handler=self.company_logo),
            Endpoint(method="PUT", path=f"{users}/editAnalytics", handler=self.nothing),
            Endpoint(method="POST", path=f"{users}/doneNextSteps", handler=self.nothing),
            Endpoint(method="GET", path=f"{users}/nats/authenticate", handler=self.nothing, open=True),
            Endpoint(method="GET", path=f"{users}/nats/authenticate/:publicKey", handler=self.nothing, open=True),
            Endpoint(method="POST", path="/api/sandbox/login", handler=self.sandbox_login, open=True),
        ]

    async def status(self, call: Call) -> Reply:
        """Compact, unlike the others."""
        return Reply(status=200, body=gojson.compact({"message": "Ok"}), headers=(("Content-Type", JSON),))

    async def cluster_info(self, call: Call) -> Reply:
        """The version that is emulated."""
        return ok({"version": VERSION})

    async def nothing(self, call: Call) -> Reply:
        """Calls of the UI that change nothing here."""
        return ok({})

    async def company_logo(self, call: Call) -> Reply:
        """There is none."""
        return ok({"image": ""})

    async def sandbox_login(self, call: Call) -> Reply:
        """Needs an outside service that is not there."""
        raise server_error()

    async def system_logs(self, call: Call) -> Reply:
        """The broker's history of the last hours, newest first; null when there is none."""
        hours: str = call.values["hours"]
        if not re.fullmatch(r"[+-]?[0-9]{1,9}", hours):
            return Reply(status=200)
        since = time.time_ns() - int(hours) * HOUR_NS
        lines = [
            {
                "id": line.id,
                "log": line.log,
                "type": line.type,
                "creation_date": gojson.date_ms(line.created),
                "component": "broker",
            }
            for line in reversed(self._state.system_logs)
            if line.created > since
        ]
        return ok({"logs": lines or None})

    async def main(self, call: Call) -> Reply:
        """Totals over all stations."""
        stations = self._stations.listed()
        components = ("ui", 0), ("broker", 1), ("mongodb", 1), ("control-plane", 1)
        return ok(
            {
                "total_stations": len(stations),
                "total_messages": await self._total_messages(),
                "system_components": [
                    {"component": name, "desired_pods": 1, "actual_pods": actual} for name, actual in components
                ],
                "stations": stations,
            }
        )

    async def _total_messages(self) -> int:
        total, offset = 0, 0
        while True:
            try:
                page = await self._jetstream.request("STREAM.LIST", {"offset": offset})
            except JetStreamError as error:
                raise server_error() from error
            streams = page["streams"] or []
            ours = (stream for stream in streams if not stream["config"]["name"].startswith(_INTERNAL))
            total += sum(int(stream["state"]["messages"]) for stream in ours)
            offset += len(streams)
            if not streams or offset >= int(page["total"]):
                return total

    async def station(self, call: Call) -> Reply:
        """Everything about one station. 500 without a body when a living group has no durable."""
        station = self._state.station(call.values["station_name"].lower())
        if station is None:
            raise showable("Station does not exist")
        try:
            groups = [await self._group(station, group) for group in self._groups(station)]
            state = (await self._jetstream.request(f"STREAM.INFO.{station.name}"))["state"]
            messages = await self._jetstream.latest(station.name, f"{station.name}.final", LISTED_MESSAGES)
        except JetStreamError as error:
            raise panicked() from error
        if not messages:
            await asyncio.sleep(self._settings.overview_wait_s)  # the real broker waits for a fetch; clients notice
        producers = newest([record for record in self._state.producers if record.station_id == station.id])
        items = [self._members.producer_item(record) for record in producers]
        return ok(
            {
                **_by_presence("producers", items),
                **_by_presence("cgs", groups),
                "total_messages": state["messages"],
                "average_message_size": state["bytes"] // state["messages"] if state["messages"] else 0,
                "audit_logs": self._audit_logs(station),
                "messages": [_preview(message) for message in reversed(messages) if not _is_resent(message)] or None,
                "poison_messages": self._poison_messages(station),
            }
        )

    def _groups(self, station: Station) -> list[str]:
        members = reversed([record for record in self._state.consumers if record.station_id == station.id])
        return list(dict.fromkeys(record.group for record in members))

    async def _group(self, station: Station, group: str) -> Item:
        members = newest(self._state.members(station, group))
        is_deleted = all(member.is_deleted for member in members)
        waiting = pending = 0
        if not is_deleted:
            info = await self._jetstream.request(f"CONSUMER.INFO.{station.name}.{group}")
            waiting, pending = info["num_pending"], info["num_ack_pending"]
        return {
            "name": group,
            "unprocessed_messages": waiting,
            "poison_messages": self._poisons.count(station.name, group),
            "is_active": any(member.is_active for member in members),
            "is_deleted": is_deleted,
            "in_process_messages": pending,
            "max_ack_time_ms": members[0].max_ack_time_ms,
            "max_msg_deliveries": members[0].max_msg_deliveries,
            **_by_presence("consumers", [self._members.consumer_item(member) for member in members]),
            "last_status_change_date": gojson.date_ms(_last_change(members)),
        }

    def _audit_logs(self, station: Station) -> list[Item]:
        since = time.time_ns() - AUDIT_NS
        return [
            {
                "id": line.id,
                "station_name": line.station,
                "message": line.message,
                "created_by_user": line.created_by_user,
                "user_type": line.user_type,
                "creation_date": gojson.date_ms(line.created),
            }
            for line in self._state.audit_logs
            if line.station == station.name and line.created >= since
        ]

    def _poison_messages(self, station: Station) -> list[Item]:
        mine = [poison for poison in self._state.poisons if poison.station == station.name]
        return [_poison_item(poison) for poison in sorted(mine, key=lambda poison: poison.at, reverse=True)]


def _by_presence(kind: str, items: list[Item]) -> Item:
    return {
        f"connected_{kind}": [item for item in items if item["is_active"]],
        f"disconnected_{kind}": [item for item in items if not item["is_active"] and not item["is_deleted"]],
        f"deleted_{kind}": [item for item in items if not item["is_active"] and item["is_deleted"]],
    }


def _last_change(members: list[Consumer]) -> int:
    return max(member.created for member in members)


def _is_resent(message: Stored) -> bool:
    return message.headers.get(PRODUCED_BY) == RESENT


def _preview(message: Stored) -> Item:
    return {
        "message_seq": message.sequence,
        "produced_by": message.headers.get(PRODUCED_BY, ""),
        "data": gojson.raw_text(message.data[:PREVIEW]),
        "creation_date": message.time,
        "connection_id": message.headers.get(CONNECTION_ID, ""),
        "size": message.size,
    }


def _poison_item(poison: Poison) -> Item:
    data = gojson.raw_text(poison.data.encode()[:PREVIEW])
    return {
        "_id": poison.id,
        "message": {"time_sent": gojson.date_ms(poison.time_sent), "size": poison.size, "data": data},
    }
