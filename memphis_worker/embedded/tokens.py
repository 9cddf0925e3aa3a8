"""The tokens that the broker issues and accepts."""

from __future__ import annotations

from memphis_worker.embedded import gojson, jwt
from memphis_worker.embedded.settings import Settings
from memphis_worker.embedded.state import State, User

Claims = dict[str, object]
REFRESH_COOKIE = "jwt-refresh-token"
_NEEDED = ("user_id", "username", "user_type", "creation_date", "already_logged_in", "avatar_id")


class Tokens:
    """Access tokens for the Authorization header, refresh tokens for the cookie; each kind has its own secret.

    They are not stored: a token outlives its connection, its user and a restart from the same folder.
    """

    def __init__(self, state: State, settings: Settings) -> None:
        self._state = state
        self._settings = settings

    def access(self, user: User) -> str:
        """A token for calls."""
        return jwt.sign(_claims(user), self._state.jwt_secret, self._settings.jwt_expires_in_s)

    def refresh(self, user: User) -> str:
        """A token that only gets new ones."""
        return jwt.sign(_claims(user), self._state.refresh_secret, self._settings.refresh_expires_in_s)

    def read_access(self, token: str) -> Claims | None:
        """The claims, None when it does not count. KeyError when one is missing from a well-signed token."""
        return _complete(jwt.verify(token, self._state.jwt_secret))

    def read_refresh(self, token: str) -> Claims | None:
        """The same for the cookie."""
        return _complete(jwt.verify(token, self._state.refresh_secret))


def _claims(user: User) -> Claims:
    return {
        "user_id": user.id,
        "username": user.username,
        "user_type": user.user_type,
        "creation_date": gojson.date_ms(user.created),
        "already_logged_in": user.already_logged_in,
        "avatar_id": user.avatar_id,
    }


def _complete(claims: Claims | None) -> Claims | None:
    if claims is not None:
        for name in _NEEDED:
            claims[name]
    return claims
