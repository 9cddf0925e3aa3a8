from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from memphis_worker import App, Context, Message, Router
from memphis_worker.errors import InvalidHandler, InvalidName, InvalidOption, MemphisWorkerError
from memphis_worker.handler import Handler, Undecodable


def made(function: Any, **options: Any) -> Handler:
    router = Router()
    router.handler(**{"station": "orders", **options})(function)
    return router.handlers[0]


async def call(handler: Handler, body: bytes = b"{}") -> object:
    class Origin:
        transport: Any = None
        stream = station = "orders"
        group = "bill"
        ack_wait_s = 30.0

        def time(self) -> float:
            return 0.0

        def settled(self, message: Message) -> None: ...

    message = Message(Origin(), b"orders.final", b"$JS.ACK.orders.bill.1.7.7.0.0", b"", body, 0.0)
    return await handler.call(handler.function, lambda message: "the context")(message)  # type: ignore[arg-type, return-value]


async def body_only(body: bytes) -> object:
    return body


async def message_only(message: Message) -> object:
    return message.sequence


async def dict_body(order: dict) -> object:
    return order


async def all_three(context: Context, order: dict, message: Message) -> object:
    return context, order, message.sequence


async def by_keyword(order: dict, *, message: Message, context: Context) -> object:
    return order, message.sequence, context


async def with_defaults(order: dict, limit: int = 5, *args: object, verbose: bool = False, **rest: object) -> object:
    return order, limit, args, verbose, rest


async def default_between(order: dict, limit: int = 5, message: Message = None) -> object:  # type: ignore[assignment]
    return order, limit, message.sequence


async def unannotated_default(first=1, order: dict | None = None, message: Message = None) -> object:  # type: ignore
    return first, order, message.sequence


class Callable:
    async def __call__(self, order: dict) -> object:
        return order

    async def method(self, order: dict) -> object:
        return order


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (body_only, b'{"a": 1}'),
        (message_only, 7),
        (dict_body, {"a": 1}),
        (all_three, ("the context", {"a": 1}, 7)),
        (by_keyword, ({"a": 1}, 7, "the context")),
        (with_defaults, ({"a": 1}, 5, (), False, {})),
        (default_between, ({"a": 1}, 5, 7)),
        (unannotated_default, (1, {"a": 1}, 7)),
        (Callable(), {"a": 1}),
        (Callable().method, {"a": 1}),
    ],
)
async def test_a_handler_gets_what_its_signature_asks_for(function: Any, expected: object) -> None:
    assert await call(made(function, group="bill", name="x"), b'{"a": 1}') == expected


async def test_a_body_that_does_not_fit_is_undecodable_before_the_function_is_called() -> None:
    with pytest.raises(Undecodable, match="must be an object"):
        await call(made(dict_body), b"[]")


def plain(body: bytes) -> None: ...


def test_a_plain_function_is_no_coroutine() -> None:
    assert not made(plain).is_async
    assert made(body_only).is_async
    assert made(Callable(), group="g", name="n").is_async


async def generator(body: bytes) -> AsyncIterator[int]:
    yield 1


def plain_generator(body: bytes) -> Iterator[int]:
    yield 1


async def no_parameter() -> None: ...


async def no_annotation(body) -> None: ...  # type: ignore[no-untyped-def]


async def two_bodies(a: dict, b: dict) -> None: ...


async def bad_body(a: set) -> None: ...  # type: ignore[type-arg]


async def unknown(a: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


async def unknown_attribute(a: json.Nowhere) -> None: ...  # type: ignore[name-defined]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (generator, "has a yield; a handler is a plain def or an async def"),
        (plain_generator, "has a yield"),
        (no_parameter, "takes no parameter; it needs the body"),
        (no_annotation, "parameter 'body' has no annotation"),
        (two_bodies, "parameter 'b' would be a second body; a message has one"),
        (bad_body, "parameter 'a': the body: <class 'set'> is no type of a body"),
        (unknown, "its annotations cannot be resolved: name 'Nowhere' is not defined"),
        (unknown_attribute, "its annotations cannot be resolved: module 'json' has no attribute 'Nowhere'"),
        (functools.partial(body_only), "parameter 'body' has no annotation"),
        ("no function", "stands on 'no function'; put it on a function"),
    ],
)
def test_a_function_that_could_never_be_called_is_refused(function: Any, words: str) -> None:
    with pytest.raises(InvalidHandler) as caught:
        made(function, group="g", name="shop.x")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"station": "a-b"}, InvalidName, "handler x: station name 'a-b' is not allowed"),
        ({"group": "a.b"}, InvalidName, "handler x: consumer group name 'a.b' is not allowed"),
        ({"concurrency": 0}, InvalidOption, "concurrency is 0"),
        ({"batch_size": 0}, InvalidOption, "batch_size is 0"),
        ({"batch_size": 10_001}, InvalidOption, "batch_size is 10001; it must be 10000 or less"),
        ({"max_ack_time_ms": 99}, InvalidOption, "max_ack_time_ms is 99"),
        ({"max_msg_deliveries": 0}, InvalidOption, "max_msg_deliveries is 0"),
        ({"batch_max_time_to_wait_ms": 99}, InvalidOption, "batch_max_time_to_wait_ms is 99"),
        ({"pull_interval_ms": -1}, InvalidOption, "pull_interval_ms is -1"),
        ({"timeout_s": 0}, InvalidOption, "timeout_s is 0"),
        ({"dead_letter": True}, InvalidOption, "dead_letter is True"),
        ({"dead_letter": ""}, InvalidOption, "dead_letter is ''"),
        ({"dead_letter": "ORDERS"}, InvalidOption, "its dead letters would go to the station it consumes, 'orders'"),
        ({"dead_letter": "a-b"}, InvalidName, "station name 'a-b' is not allowed"),
    ],
)
def test_options_that_cannot_hold_are_refused(options: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind) as caught:
        made(body_only, name="x", **options)
    assert words in str(caught.value)


def test_a_timeout_for_a_plain_function_is_refused() -> None:
    with pytest.raises(InvalidOption, match="timeout_s needs an async def; a thread cannot be stopped"):
        made(plain, timeout_s=1)


def test_names_follow_from_the_function() -> None:
    handler = made(body_only, station="Orders")
    assert (handler.station, handler.group, handler.name) == ("orders", "body_only", "test_handler.body_only")


def test_the_decorated_function_stays_as_it_is() -> None:
    assert App().handler(station="orders")(body_only) is body_only


# ------------------------------------------------------------------------------------ registry


def test_two_handlers_of_one_group_are_refused() -> None:
    app = App()
    app.handler(station="orders", group="g", name="one")(body_only)
    with pytest.raises(InvalidHandler, match=r"handlers one and two both have station 'orders' and group 'g'"):
        app.handler(station="Orders", group="G", name="two")(body_only)
    assert [each.name for each in app.registry] == ["one"]


def test_two_handlers_of_one_name_are_refused() -> None:
    app = App()
    app.handler(station="orders", group="a")(body_only)
    with pytest.raises(InvalidHandler, match=r"two handlers are named test_handler.body_only; give one of them name="):
        app.handler(station="orders", group="b")(body_only)


def test_a_router_is_included_and_its_duplicates_refused() -> None:
    app, router = App(), Router()
    router.handler(station="orders")(body_only)
    app.include(router)
    assert [each.group for each in app.registry] == ["body_only"]
    with pytest.raises(InvalidHandler):
        app.include(router)


@pytest.mark.parametrize(
    ("only", "exclude", "names"),
    [
        ((), (), ["x.a", "x.b", "y.a"]),
        (("x.a",), (), ["x.a"]),
        (("a",), (), ["x.a", "y.a"]),
        ((), ("a",), ["x.b"]),
        (("a",), ("y.a",), ["x.a"]),
    ],
)
def test_handlers_are_selected_by_name_and_short_name(only: Any, exclude: Any, names: list[str]) -> None:
    app = App()
    for name in ("x.a", "x.b", "y.a"):
        app.handler(station=name.replace(".", "_"), name=name)(body_only)
    assert [each.name for each in app.registry.select(only, exclude)] == names


def test_an_unknown_name_is_refused_with_those_that_exist() -> None:
    app = App()
    app.handler(station="orders", name="x.a")(body_only)
    with pytest.raises(MemphisWorkerError, match=r"no handler is named 'z'; there are: x.a"):
        app.registry.select(("z",), ())
