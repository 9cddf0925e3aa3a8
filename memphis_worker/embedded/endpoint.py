"""What an endpoint of the management API is, and what its handler gets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from memphis_worker.embedded.fields import Field, Values
from memphis_worker.embedded.http import Reply, Request
from memphis_worker.embedded.tokens import Claims


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One authorized and validated call. `claims` are those of the token, empty where none is asked for."""

    request: Request
    values: Values
    claims: Claims

    @property
    def username(self) -> str:
        """Who calls, by the token: the user may be gone."""
        return str(self.claims["username"])

    @property
    def user_type(self) -> str:
        """root, application or management."""
        return str(self.claims["user_type"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One route. `sandboxed`: with SANDBOX_ENV only root may call it."""

    method: str
    path: str
    handler: Callable[[Call], Awaitable[Reply]]
    fields: tuple[Field, ...] = ()
    open: bool = False
    sandboxed: bool = False
