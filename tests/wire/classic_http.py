"""The recorded HTTP exchanges, and what happened around them: sessions, messages, changes behind the broker's back."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from tests.wire import compare, raw_http
from tests.wire.compare import Outcome
from tests.wire.world import World, claims

Step = Callable[[World], Awaitable[None]]
Exchange = dict[str, Any]


class HttpReplay:
    """Replays lines of `http.jsonl` in order; `before` a scenario its step runs, as do checks of streams and groups."""

    def __init__(
        self, world: World, before: dict[str, Step], headers: dict[str, Callable[[World], Awaitable[str]]]
    ) -> None:
        self._world = world
        self._before = before
        self._headers = headers

    async def run(self, exchange: Exchange) -> Outcome:
        """One exchange."""
        step = self._before.get(exchange["scenario"])
        if step is not None:
            await step(self._world)
        path = compare.translate(self._world.ids, exchange["path"])
        body = _body(compare.translate(self._world.ids, exchange["body"]))
        headers = await self._sent(exchange, body)
        port = self._world.broker.management_port
        answer = await raw_http.request(port, exchange["method"], path, headers, body)
        text = _text(answer.body)
        compare.learn(self._world.ids, exchange["response"], text)
        return Outcome("http", exchange["scenario"], _difference(exchange, answer, text))

    async def _sent(self, exchange: Exchange, body: bytes) -> dict[str, str]:
        special = self._headers.get(exchange["scenario"])
        sent = {} if exchange["part"] == "S" else dict(exchange.get("headers") or {})
        if body and "Content-Type" not in sent:
            sent["Content-Type"] = "application/json"
        if exchange.get("auth") or exchange["part"] == "S":
            sent["Authorization"] = (
                f"Bearer {await special(self._world) if special else await self._world.root_token()}"
            )
        elif special is not None or any("eyJ" in value for value in sent.values()):
            token = await special(self._world) if special else await self._world.root_token()
            sent = {name: _with_token(value, token) for name, value in sent.items()}
        return sent


def _with_token(value: str, token: str) -> str:
    return " ".join(word.partition("eyJ")[0] + token if "eyJ" in word else word for word in value.split(" "))


def _body(written: str) -> bytes:
    return bytes.fromhex(written[4:]) if written.startswith("hex:") else written.encode()


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return f"hex:{body.hex()}"


def _difference(exchange: Exchange, answer: raw_http.Answer, text: str) -> str:
    recorded = exchange["response"]
    if "re-serialised" in (exchange.get("note") or ""):
        recorded, text = _first_lines(recorded, text)
    return (
        compare.differing(exchange["status_line"], answer.status_line)
        or compare.differing(_headers(exchange["response_headers"]), _relevant(exchange, answer.headers))
        or compare.differing(compare.normal(recorded), compare.normal(text))
    )


def _first_lines(recorded: str, text: str) -> tuple[str, str]:
    """A list of logs that was cut to its first lines."""
    kept = json.loads(recorded)
    got = json.loads(text)
    got["logs"] = (got["logs"] or [])[: len(kept["logs"])]
    return json.dumps(kept), json.dumps(got)


def _headers(recorded: dict[str, Any]) -> dict[str, list[str]]:
    named = {name.lower(): value if isinstance(value, list) else [value] for name, value in recorded.items()}
    named.pop("content-length", None)  # follows from the body; of a HEAD reply it is that of the 404 text
    return {name: [compare.normal(value) for value in values] for name, values in named.items()}


def _relevant(exchange: Exchange, headers: dict[str, list[str]]) -> dict[str, list[str]]:
    return {
        name: [compare.normal(value) for value in values]
        for name, values in headers.items()
        if name in compare.HEADERS or name.startswith("access-control-")
    }


def a_token(**changed: object) -> Callable[[World], Awaitable[str]]:
    """A forged one."""
    algorithm = str(changed.pop("algorithm", "HS256"))
    secret = changed.pop("secret", None)

    async def make(world: World) -> str:
        return world.forge(claims(**changed), algorithm, None if secret is None else str(secret))

    return make


async def refresh_token(world: World) -> str:
    """The cookie of a login."""
    await world.root_token()
    return world.kept["refresh"]
