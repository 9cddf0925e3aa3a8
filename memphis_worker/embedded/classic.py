"""The management API of Memphis 0.3.0: routes, tokens, parameters. What each call does is in the module of its noun."""

from __future__ import annotations

import re
from collections.abc import Iterable

from memphis_worker.embedded.endpoint import Call, Endpoint
from memphis_worker.embedded.fields import Values, from_json, from_query, problems
from memphis_worker.embedded.http import Handler, Reply, Request, abort, panicked, showable
from memphis_worker.embedded.settings import Settings
from memphis_worker.embedded.state import ROOT, State
from memphis_worker.embedded.tokens import Claims, Tokens

_NOT_JSON = "Body params have to be in JSON format"
_SANDBOX = "You are in a sandbox environment, this operation is not allowed"


class ClassicApi:
    """Finds the endpoint of a request and guards it. An unknown path or verb is a 404 before any token is looked at."""

    def __init__(self, *, state: State, settings: Settings, tokens: Tokens, endpoints: Iterable[Endpoint]) -> None:
        self._state = state
        self._settings = settings
        self._tokens = tokens
        self._exact: dict[tuple[str, str], Endpoint] = {}
        self._patterns: list[tuple[str, re.Pattern[str], Endpoint]] = []
        for endpoint in endpoints:
            self._add(endpoint)

    def _add(self, endpoint: Endpoint) -> None:
        if ":" in endpoint.path:
            pattern = re.compile(re.sub(r":\w+", "[^/]+", endpoint.path))
            self._patterns.append((endpoint.method, pattern, endpoint))
        else:
            self._exact[endpoint.method, endpoint.path] = endpoint

    def find(self, method: str, path: str) -> Handler | None:
        """The handler of a request; the case of the path counts."""
        endpoint = self._exact.get((method, path)) or next(
            (found for verb, pattern, found in self._patterns if verb == method and pattern.fullmatch(path)), None
        )
        if endpoint is None:
            return None

        async def handle(request: Request) -> Reply:
            return await self._call(endpoint, request)

        return handle

    async def _call(self, endpoint: Endpoint, request: Request) -> Reply:
        claims = {} if endpoint.open else self._authorized(request)
        if endpoint.sandboxed and self._settings.sandbox and claims["user_type"] != ROOT:
            raise showable(_SANDBOX)
        call = Call(request=request, values=_values(endpoint, request), claims=claims)
        try:
            return await endpoint.handler(call)
        finally:
            if endpoint.method != "GET":
                self._state.save()

    def _authorized(self, request: Request) -> Claims:
        """Two words, whatever the first: `Bearer <token>`."""
        words = request.headers.get("authorization", "").split(" ")
        try:
            claims = self._tokens.read_access(words[1]) if len(words) == 2 else None
        except KeyError:
            raise panicked() from None  # well signed, but a claim is missing
        if claims is None:
            raise abort(401, "Unauthorized")
        return claims


def _values(endpoint: Endpoint, request: Request) -> Values:
    if not endpoint.fields:
        return {}
    if endpoint.method == "GET":
        values, complete = from_query(endpoint.fields, request.query)
    else:
        values, complete = _from_body(endpoint, request), True
    found = problems(endpoint.fields, values) if complete else []
    if found:
        raise abort(400, found)
    return values


def _from_body(endpoint: Endpoint, request: Request) -> Values:
    try:
        return from_json(endpoint.fields, request.body)
    except ValueError as error:
        raise abort(400, _NOT_JSON) from error
