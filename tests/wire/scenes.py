"""What happened before a recorded exchange: sessions, messages, changes behind the broker's back."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from tests.wire.classic_http import Step, a_token, refresh_token
from tests.wire.world import World

OVERVIEW = "/api/monitoring/getStationOverviewData?station_name="
TEXT = "poison text é €".encode()
LONG = b"L" * 150
DLQ = "$memphis_dlq"
EXHAUSTED = {"max_ack_time_ms": 1000, "max_msg_deliveries": 2}


async def user_gone(world: World) -> None:
    await world.call("POST", "/api/usermgmt/addUser", {"username": "gone", "user_type": "application"})
    session = await world.connect("gone", "gone")
    await world.producer(session, "pgone", "st_default")
    await world.call("DELETE", "/api/usermgmt/removeUser", {"username": "gone"})


async def management_user(world: World) -> None:
    world.kept["ops"], _ = await world.login("ops", "secret")


async def part_b(world: World) -> None:
    await world.call("POST", "/api/usermgmt/addUser", {"username": "worker", "user_type": "application"})
    for recorded, name, username in (
        ("6b0561a6a58a9b70e06d196e", "b1", "root"),
        ("6b0561a6a58a9b70e06d1970", "b2", "worker"),
        ("6b0561a6a58a9b70e06d1972", "b3", "worker"),
    ):
        world.ids[recorded] = (await world.connect(name, username)).id
    await world.producer(world.sessions["b3"], "marker", "inactive")
    await world.drop("b3", "inactive", "Producers")
    await world.call("DELETE", "/api/stations/removeStation", {"station_name": "inactive"})


async def foreign_durable(world: World) -> None:
    config = {"durable_name": "foreign", "ack_policy": "explicit", "ack_wait": 5_000_000_000, "max_deliver": 3}
    config["filter_subject"] = "st_default.final"
    body = {"stream_name": "st_default", "config": config}
    await world.jetstream("CONSUMER.DURABLE.CREATE.st_default.foreign", body)


def lost_durable(name: str) -> Step:
    async def lose(world: World) -> None:
        await world.jetstream(f"CONSUMER.DELETE.st_default.{name}")

    return lose


async def lost_stream(world: World) -> None:
    await world.jetstream("STREAM.DELETE.st_min")


async def foreign_streams(world: World) -> None:
    config = {"name": "foreign_st", "subjects": ["foreign_st.>"], "max_msgs": 5, "storage": "memory"}
    await world.jetstream("STREAM.CREATE.foreign_st", config)
    await world.jetstream("STREAM.CREATE.other_name", {"name": "other_name", "subjects": ["over.>"]})


async def drop_second(world: World) -> None:
    world.kept["b2"] = world.sessions["b2"].id
    await world.drop("b2", "auto_c")


async def second_again(world: World) -> None:
    await world.connect("b2", "worker", world.kept["b2"])


async def swept(world: World) -> None:
    world.ids["6b0561f8a58a9b70e06d1a75"] = (await world.connect("silent")).id
    world.broker.sweep(time.time_ns() + 66_000_000_000)


async def first_letter(world: World) -> None:
    session = await world.connect("c1")
    world.ids["6b05626ea58a9b70e06d1b3f"] = session.id
    await world.call("POST", "/api/factories/createFactory", {"name": "dlf"})
    await world.call("POST", "/api/stations/createStation", {"name": "dl1", "factory_name": "dlf"})
    await world.producer(session, "plow", "dl1")
    await world.producer(session, "pup", "dl1")
    await world.consumer(session, "c1", "dl1", "g1", **EXHAUSTED)
    await letter(world, TEXT)
    await world.exhaust("dl1", "g1", poisoned=1)


async def letter(world: World, data: bytes, producer: str = "plow", connection: str | None = None) -> None:
    connection = connection or world.sessions["c1"].id
    id_ = f"id{time.time_ns()}"
    await world.produce("dl1.final", data, Nats_Msg_Id=id_, producedBy=producer, connectionId=connection)


async def other_letters(world: World) -> None:
    await letter(world, b"poison with a waiting pull")
    await letter(world, bytes.fromhex("00fffe80410a"))
    await letter(world, LONG)
    await letter(world, b"upper producer", "PUp")
    await world.produce("dl1.final", b"no headers")
    await world.produce("dl1.final", b"only producedBy", producedBy="plow")
    await letter(world, b"unknown producer", "ghost")
    await letter(world, b"bad connectionId", connection="zz")
    await letter(world, b"produced by $memphis_dlq itself", DLQ)
    await letter(world, b"other subject")
    await world.exhaust("dl1", "g1", poisoned=8)


async def second_group(world: World) -> None:
    await world.consumer(world.sessions["c1"], "c2", "dl1", "g2", **EXHAUSTED)
    await world.exhaust("dl1", "g2", poisoned=8)
    for group in ("g1", "g2"):
        await world.nats.subscribe(f"{DLQ}_dl1_{group}", cb=_keep(world))
    await world.nats.flush()


def _keep(world: World) -> Callable[..., Awaitable[None]]:
    async def keep(message: object) -> None:
        world.resent.append(message)  # type: ignore[arg-type]

    return keep


async def first_group_again(world: World) -> None:
    await world.consumer(world.sessions["c1"], "c1", "dl1", "g1", **EXHAUSTED)
    await world.exhaust("dl1", "g1", poisoned=8)


def destroy(name: str, station: str) -> Step:
    async def run(world: World) -> None:
        await world.destroy_consumer(name, station)

    return run


async def station_cap1(world: World) -> None:
    session = await world.connect("cap")
    world.ids["6b056360a58a9b70e06d23af"] = session.id
    await world.call("POST", "/api/stations/createStation", {"name": "cap1", "factory_name": "capf"})
    await world.producer(session, "p", "cap1")
    await world.consumer(session, "c", "cap1", "g", max_ack_time_ms=1500, max_msg_deliveries=5)
    await world.consumer(session, "c2", "cap1", "g", max_ack_time_ms=1500, max_msg_deliveries=5)
    sent = {"producedBy": "p", "connectionId": session.id}
    for number in range(3):
        await world.produce("cap1.final", b"m%d" % number, Nats_Msg_Id=f"i{number}", **sent)
    await world.produce("cap1.other", b"not final", **sent)
    await world.produce("cap1.final", b"no headers")
    await world.produce("cap1.final", b"resent", producedBy=DLQ, connectionId=session.id)


async def station_crash(world: World) -> None:
    await world.consumer(world.sessions["cap"], "m1", "crash", "g")
    await world.consumer(await world.connect("crash"), "m2", "crash", "g")
    await world.drop("crash", "crash")


async def station_cap10(world: World) -> None:
    body = {"name": "cap10", "factory_name": "capf", "retention_type": "messages", "retention_value": 3}
    await world.call("POST", "/api/stations/createStation", body)
    sent = {"producedBy": "p", "connectionId": world.sessions["cap"].id}
    for number in range(6):
        await world.produce("cap10.final", b"m%d" % number, Nats_Msg_Id=f"j{number}", **sent)


async def doubled_producer(world: World) -> None:
    first = await world.connect("mo1")
    await world.producer(first, "dp", "mo2")
    await world.drop("mo1", "mo2", "Producers")
    second = await world.connect("mo2")
    world.ids["6b0565f3a58a9b70e06d2434"] = second.id
    await world.producer(second, "dp", "mo2")
    await world.connect("mo1", connection_id=first.id)


async def sandbox_session(world: World) -> None:
    session = await world.connect("sapp", "sapp")
    world.ids["6b0563e94cc883d7728c1b27"] = session.id
    world.kept["sapp"] = session.token


async def sandbox_manager(world: World) -> None:
    world.kept["sman"], _ = await world.login("sman", "s")


async def sdk_session(world: World) -> None:
    world.ids["6b0562c5a58a9b70e06d1b88"] = (await world.connect("sdk")).id


async def new_after_restart(world: World) -> None:
    world.ids["6b0564c76003c44a29afb252"] = (await world.connect("new")).id


async def old_after_restart(world: World) -> None:
    world.ids["6b0564c4502ff7f32c1d0d32"] = (await world.connect("old", connection_id=world.kept["before"])).id


def kept(name: str) -> Callable[[World], Awaitable[str]]:
    async def token(world: World) -> str:
        return world.kept[name]

    return token


SIX_MESSAGES = (
    "getStationOverviewData: 6 messages (1 on another subject, 1 without headers, 1 produced by $memphis_dlq)"
)
BEFORE: dict[str, Step] = {
    "getAllUsers: as management user": management_user,
    "getAllProducers after the owner user was removed": user_gone,
    "createProducer: ok, names in upper case": part_b,
    "createConsumer: the durable exists in NATS with another config (NATS error is ignored)": foreign_durable,
    "destroyConsumer: the durable was already removed in NATS": lost_durable("d20"),
    "getStationOverviewData: one active group has lost its durable in NATS": lost_durable("d11"),
    "createStation: record exists, stream was removed in NATS": lost_stream,
    "createStation: a stream of that name exists in NATS with another config": foreign_streams,
    "getAllConsumersByStation: after the TCP drop of the second session": drop_second,
    "getAllConsumersByStation: the old session reconnects: both records of one name are active": second_again,
    "createProducer: on a session that was swept, its socket still open and pinged": swept,
    "getMessageDetails: message that is poisoned for one group": first_letter,
    "getMessageDetails: binary payload": other_letters,
    "getPoisonMessageJourney: two groups": second_group,
    "getPoisonMessageJourney: one of two groups destroyed": destroy("c2", "dl1"),
    "getPoisonMessageJourney: all its groups destroyed": destroy("c1", "dl1"),
    "getPoisonMessageJourney: group re-created and poisoned again (same record)": first_group_again,
    SIX_MESSAGES: station_cap1,
    "destroyConsumer: last active member while another member is only inactive": station_crash,
    "getStationOverviewData: retention 3 messages after 6 were produced": station_cap10,
    "getAllProducersByStation: two active records of one name": doubled_producer,
    "sandbox: createStation as application user": sandbox_session,
    "sandbox: removeFactory as management user": sandbox_manager,
    "sdk 0.1.5: producer: ok": sdk_session,
    "createProducer: same name by a new connection, after the broker restart": new_after_restart,
    "createProducer: same name by the reconnected id, after the broker restart": old_after_restart,
}

HEADERS: dict[str, Callable[[World], Awaitable[str]]] = {
    "refreshToken: valid cookie, no body": refresh_token,
    "auth: refresh token used as access token": refresh_token,
    "auth: expired token": a_token(exp=int(time.time()) - 5),
    "auth: token of another secret": a_token(secret="other"),
    "auth: token without exp (valid for ever)": a_token(exp=None),
    "auth: HS512 token with the right secret": a_token(algorithm="HS512"),
    "auth: alg none": a_token(algorithm="none"),
    "auth: right signature, claims missing": a_token(user_id=None, username=None, user_type=None),
    "auth: right signature, user does not exist in the database": a_token(username="nobody"),
    "getAllUsers: as management user": kept("ops"),
    "removeUser: root as another user": kept("ops"),
    "removeMyUser: management user": kept("ops"),
    "auth: token of a user who was removed still works until exp": kept("ops"),
    "auth: forged token signed with the empty key (JWT_SECRET unset)": a_token(),
    "sandbox: createStation as application user": kept("sapp"),
    "sandbox: removeStation as application user": kept("sapp"),
    "sandbox: createProducer as application user": kept("sapp"),
    "sandbox: destroyProducer as application user": kept("sapp"),
    "sandbox: destroyConsumer as application user": kept("sapp"),
    "sandbox: removeFactory as management user": kept("sman"),
    "sandbox: editFactory as management user": kept("sman"),
    "sandbox: removeUser as management user": kept("sman"),
    "sandbox: removeMyUser as management user": kept("sman"),
    "auth: token issued by the broker, after its 60 s": a_token(exp=int(time.time()) - 1),
}
