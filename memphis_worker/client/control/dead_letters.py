"""The dead letters that a classic broker records itself: a message that used up its deliveries in a group.

Kept 3 hours, one record for a message and all its groups, and only for messages that carry `producedBy` and
`connectionId` (Memphis broker v0.3.0, `handlers/poison_messages.go`, seen on a real one).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from memphis_worker.client.control.management import Management, ServerError
from memphis_worker.errors import BrokerRefused, Missing

__all__ = ["Poisoned", "PoisonedGroup", "read_poisoned"]

#: The overview of a station without messages takes the broker 3.0 s, whatever our own timeout is.
_OVERVIEW_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PoisonedGroup:
    """One group in which the message failed for good."""

    group: str
    deliveries: int
    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Poisoned:
    """One record of the broker."""

    id: str
    """24 hex digits: what resending and dropping take."""
    station: str
    sequence: int | None
    """In the station's stream; `None`, like no groups, when the broker cannot give the details."""
    sent_at: datetime
    size_bytes: int
    """Subject, headers and body."""
    groups: tuple[PoisonedGroup, ...]
    preview: str = field(repr=False)
    """The first 100 bytes of the body, bad UTF-8 replaced."""


async def read_poisoned(http: Management, station: str) -> list[Poisoned]:
    """One call for the list and one for each record's groups. Raises Missing (no such station), BrokerRefused."""
    overview = await http.read(
        "/api/monitoring/getStationOverviewData",
        f"list dead letters of station {station!r}",
        {"station_name": station},
        timeout_s=_OVERVIEW_TIMEOUT_S,
    )
    found: list[Poisoned] = []
    for item in _items(_fields(overview).get("poison_messages")):
        identity = str(item.get("_id"))
        try:
            details = _fields(
                await http.read(
                    "/api/stations/getPoisonMessageJourney", f"read dead letter {identity}", {"message_id": identity}
                )
            )
        except Missing:  # Dropped, or older than 3 hours, since the list was made.
            continue
        except ServerError:  # Its producer has no record at the broker.
            details = {}
        found.append(_poisoned(station, identity, _fields(item.get("message")), details))
    return found


def _poisoned(station: str, identity: str, message: dict[str, object], details: dict[str, object]) -> Poisoned:
    sequence, size = details.get("message_seq"), message.get("size")
    return Poisoned(
        id=identity,
        station=station,
        sequence=sequence if isinstance(sequence, int) else None,
        sent_at=_time(message.get("time_sent")),
        size_bytes=size if isinstance(size, int) else 0,
        groups=tuple(_group(item) for item in _items(details.get("poisoned_cgs"))),
        preview=str(message.get("data", "")),
    )


def _group(item: dict[str, object]) -> PoisonedGroup:
    deliveries = item.get("deliveries_count")
    return PoisonedGroup(
        group=str(item.get("cg_name")),
        deliveries=deliveries if isinstance(deliveries, int) else 0,
        time=_time(item.get("poisoning_time")),
    )


def _fields(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _items(value: object) -> list[dict[str, object]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _time(value: object) -> datetime:
    try:
        return datetime.fromisoformat(str(value))
    except ValueError as exc:
        raise BrokerRefused(f"the broker gave a time that cannot be read: {value!r}") from exc
