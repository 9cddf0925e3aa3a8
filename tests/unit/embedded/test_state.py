"""Records: kept in a file, found again, never with secrets in a repr."""

from __future__ import annotations

import stat
from pathlib import Path

from memphis_worker.embedded.ids import new_id, parse_id
from memphis_worker.embedded.presence import Presence
from memphis_worker.embedded.settings import Settings
from memphis_worker.embedded.state import (
    Connection,
    Consumer,
    Factory,
    Poison,
    PoisonedGroup,
    Producer,
    State,
    Station,
    User,
    newest,
)

SECOND = 1_000_000_000
SETTINGS = Settings(token="memphis", root_password="memphis")


def filled(state: State) -> State:
    factory = Factory(name="f", created_by_user="root")
    station = Station(name="st", factory_id=factory.id, created_by_user="root")
    connection = Connection(created_by_user="app", client_address="127.0.0.1")
    of = {"type": "application", "station_id": station.id, "connection_id": connection.id, "created_by_user": "app"}
    state.users.append(User(username="app", user_type="application"))
    state.factories.append(factory)
    state.stations.append(station)
    state.connections.append(connection)
    state.producers.append(Producer(name="p", **of))
    state.consumers.append(Consumer(name="c", group="g", max_ack_time_ms=1, max_msg_deliveries=2, **of))
    group = PoisonedGroup(name="g", at=1, deliveries=2)
    poison = Poison(
        at=1,
        station="st",
        sequence=1,
        producer="p",
        connection_id=connection.id,
        time_sent=1,
        size=1,
        data="\u20ac",
        groups=[group],
    )
    state.poisons.append(poison)
    state.audit(station, "Station st has been created", "root", "root")
    state.note("Station st has been created")
    return state


def test_state_read_from_its_file_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    state = filled(State(path))
    state.save()
    again = State(path)
    again.load()
    tables = ("users", "factories", "stations", "connections", "producers", "consumers", "poisons", "audit_logs")
    for table in (*tables, "system_logs", "jwt_secret", "refresh_secret"):
        assert getattr(again, table) == getattr(state, table), table


def test_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    State(path).save()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_secrets_are_not_in_a_repr() -> None:
    user = User(username="u", user_type="management", password="hidden", hub_password="hidden")
    assert "hidden" not in repr(user) + repr(Settings(token="hidden", root_password="hidden"))


def test_drop_marks_everything_of_the_connection_and_tells_the_station() -> None:
    state = filled(State(None))
    Presence(state, SETTINGS).drop(state.connections[0])
    records = [*state.connections, *state.producers, *state.consumers]
    assert [record.is_active for record in records] == [False, False, False]
    told = [line.message for line in state.audit_logs[1:]]
    assert told == ["Producer p has been disconnected", "Consumer c has been disconnected"]


def test_sweep_marks_who_has_not_pinged_for_65_s_and_tells_nobody() -> None:
    state = filled(State(None))
    presence, connection = Presence(state, SETTINGS), state.connections[0]
    presence.sweep(connection.last_ping + 65 * SECOND)
    assert connection.is_active
    presence.sweep(connection.last_ping + 65 * SECOND + 1)
    assert not connection.is_active
    assert not state.consumers[0].is_active
    assert len(state.audit_logs) == 1


def test_ping_after_the_sweep_does_not_revive_but_a_reconnect_does() -> None:
    state = filled(State(None))
    presence, connection, user = Presence(state, SETTINGS), state.connections[0], state.users[0]
    presence.sweep(connection.last_ping + 66 * SECOND)
    presence.ping(connection)
    assert not connection.is_active
    last_ping = connection.last_ping
    assert presence.connect(user, connection.id, "127.0.0.1") is connection
    assert (connection.is_active, state.producers[0].is_active, connection.last_ping) == (True, True, last_ping)


def test_reconnect_does_not_revive_what_was_destroyed() -> None:
    state = filled(State(None))
    state.producers[0].is_active, state.producers[0].is_deleted = False, True
    Presence(state, SETTINGS).connect(state.users[0], state.connections[0].id, "127.0.0.1")
    assert not state.producers[0].is_active


def test_sweep_forgets_dead_letters_after_three_hours() -> None:
    state = filled(State(None))
    presence = Presence(state, SETTINGS)
    presence.sweep(1 + 3 * 3600 * SECOND)
    assert len(state.poisons) == 1
    presence.sweep(2 + 3 * 3600 * SECOND)
    assert state.poisons == []


def test_removed_user_leaves_its_records_marked_and_renamed() -> None:
    state = filled(State(None))
    Presence(state, SETTINGS).remove_user(state.users[0])
    assert state.users == []
    assert (state.producers[0].is_active, state.producers[0].created_by_user) == (False, "app(deleted)")


def test_newest_takes_one_record_of_each_name_newest_first() -> None:
    of = {"type": "application", "station_id": "s", "connection_id": "c", "created_by_user": "root"}
    records = [Producer(name=name, created=at, **of) for name, at in (("a", 1), ("b", 2), ("a", 3), ("c", 0))]
    assert [(record.name, record.created) for record in newest(records)] == [("a", 3), ("b", 2), ("c", 0)]


def test_ids_are_24_hex_digits_and_differ() -> None:
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(parse_id(id_) == id_ for id_ in ids)
