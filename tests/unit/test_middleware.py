from __future__ import annotations

from typing import Any

import pytest

from memphis_worker.middleware import Call, Middleware, compose


def noting(name: str, seen: list[str]) -> Middleware:
    async def wrap(message: Any, call_next: Call) -> object:
        seen.append(f"{name} in")
        try:
            return await call_next(message)
        finally:
            seen.append(f"{name} out")

    return wrap


async def test_the_first_middleware_is_the_outermost() -> None:
    seen: list[str] = []

    async def handler(message: Any) -> object:
        seen.append(message)
        return 7

    call = compose(handler, [noting("a", seen), noting("b", seen)])
    assert await call("message") == 7  # type: ignore[arg-type]
    assert seen == ["a in", "b in", "message", "b out", "a out"]


async def test_without_middleware_the_call_is_the_handler_itself() -> None:
    async def handler(message: Any) -> object: ...

    assert compose(handler, []) is handler


async def test_an_error_goes_through_them_all() -> None:
    seen: list[str] = []

    def undecodable(message: Any) -> Any:  # raises before there is anything to await
        raise ValueError("x")

    call = compose(undecodable, [noting("a", seen)])
    with pytest.raises(ValueError, match="x"):
        await call("message")  # type: ignore[arg-type]
    assert seen == ["a in", "a out"]


async def test_a_middleware_may_answer_for_the_handler() -> None:
    async def skip(message: Any, call_next: Call) -> object:
        return "skipped"

    async def handler(message: Any) -> object:
        raise AssertionError

    assert await compose(handler, [skip])("message") == "skipped"  # type: ignore[arg-type]
