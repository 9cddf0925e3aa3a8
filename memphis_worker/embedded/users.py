"""Users and logins. Source: Memphis 0.3.0 (tests/wire/classic/http.jsonl, part A)."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

from memphis_worker.embedded.endpoint import Call, Endpoint
from memphis_worker.embedded.fields import Field, required
from memphis_worker.embedded.gojson import date_ms, date_ns
from memphis_worker.embedded.http import Header, Reply, abort, ok, server_error, showable
from memphis_worker.embedded.presence import Presence
from memphis_worker.embedded.settings import Settings
from memphis_worker.embedded.state import APPLICATION, MANAGEMENT, ROOT, State, User
from memphis_worker.embedded.tokens import REFRESH_COOKIE, Tokens

_NAME = re.compile(r"[a-z0-9_.]*")
_ROUNDS = 10_000
_COOKIE_AGE = 172_800_000
"""Milliseconds given as seconds: the real broker's mix-up."""


class Users:
    """The endpoints below /api/usermgmt, and the root user."""

    def __init__(self, state: State, settings: Settings, presence: Presence, tokens: Tokens) -> None:
        self._state = state
        self._settings = settings
        self._presence = presence
        self._tokens = tokens

    def ensure_root(self) -> None:
        """Makes the root user at the first start."""
        if self._state.user(ROOT) is None:
            self._state.users.append(User(username=ROOT, user_type=ROOT))

    def endpoints(self) -> list[Endpoint]:
        """The routes."""
        added = (*required("username", most=25), *required("user_type"), Field(name="password"))
        hub = (Field(name="hub_username"), Field(name="hub_password"))
        avatar = Field(name="avatar_id", kind="int")
        username = required("username")
        base = "/api/usermgmt"
        return [
            Endpoint(
                method="POST",
                path=f"{base}/login",
                handler=self.login,
                fields=required("username", "password"),
                open=True,
            ),
            Endpoint(method="POST", path=f"{base}/refreshToken", handler=self.refresh_token, open=True),
            Endpoint(method="POST", path=f"{base}/addUser", handler=self.add_user, fields=(*added, *hub, avatar)),
            Endpoint(method="GET", path=f"{base}/getAllUsers", handler=self.get_all_users),
            Endpoint(
                method="DELETE", path=f"{base}/removeUser", handler=self.remove_user, fields=username, sandboxed=True
            ),
            Endpoint(method="DELETE", path=f"{base}/removeMyUser", handler=self.remove_my_user),
            Endpoint(method="PUT", path=f"{base}/editAvatar", handler=self.edit_avatar, fields=(avatar,)),
            Endpoint(method="PUT", path=f"{base}/editHubCreds", handler=self.edit_hub_creds, fields=hub),
        ]

    async def login(self, call: Call) -> Reply:
        """A token, and the refresh token in a cookie. Application users have no password: 401."""
        user = self._state.user(call.values["username"].lower())
        if user is None or not self._password_fits(user, call.values["password"]):
            raise abort(401, "Unauthorized")
        reply = self._signed_in(user, "HttpOnly")
        user.already_logged_in = True
        return reply

    async def refresh_token(self, call: Call) -> Reply:
        """The same for the cookie of a login; the new cookie is marked Secure, as on the real broker."""
        claims = self._tokens.read_refresh(call.request.cookie(REFRESH_COOKIE))
        user = self._state.user(str(claims["username"])) if claims else None
        if user is None:
            raise abort(401, "Unauthorized")
        return self._signed_in(user, "HttpOnly; Secure")

    def _signed_in(self, user: User, flags: str) -> Reply:
        cookie = f"{REFRESH_COOKIE}={self._tokens.refresh(user)}; Path=/; Max-Age={_COOKIE_AGE}; {flags}"
        header: Header = ("Set-Cookie", cookie)
        return ok(
            {
                "already_logged_in": user.already_logged_in,
                "avatar_id": user.avatar_id,
                "creation_date": date_ms(user.created),
                "env": "docker",
                "expires_in": int(self._settings.jwt_expires_in_s * 1000),
                "jwt": self._tokens.access(user),
                "namespace": "",
                "send_analytics": False,
                "user_id": user.id,
                "user_type": user.user_type,
                "username": user.username,
            },
            header,
        )

    def _password_fits(self, user: User, password: str) -> bool:
        if user.user_type == ROOT:
            return hmac.compare_digest(password.encode(), self._settings.root_password.encode())
        return user.user_type == MANAGEMENT and hmac.compare_digest(hashed(password, user.password[:32]), user.password)

    async def add_user(self, call: Call) -> Reply:
        """An application user gets the one NATS token that all share."""
        values = call.values
        username, user_type = values["username"].lower(), values["user_type"].lower()
        if self._state.user(username) is not None:
            raise showable("A user with this username is already exist")
        if user_type not in (APPLICATION, MANAGEMENT):
            raise showable("user type has to be application/management")
        if user_type == MANAGEMENT and not values["password"]:
            raise showable("Password was not provided")
        if not _NAME.fullmatch(username):
            raise showable("username has to include only letters/numbers/./_ ")
        is_application = user_type == APPLICATION
        user = User(
            username=username,
            user_type=user_type,
            password="" if is_application else hashed(values["password"], secrets.token_hex(16)),
            hub_username=values["hub_username"],
            hub_password=values["hub_password"],
            avatar_id=0 if is_application else 1,
        )
        self._state.users.append(user)
        self._state.note(f"User {username} has been created")
        shown = {**_profile(user), "avatar_id": values["avatar_id"], "creation_date": date_ns(user.created)}
        creds = self._settings.token if is_application else ""
        return ok(dict(sorted({**shown, "broker_connection_creds": creds}.items())))

    async def get_all_users(self, call: Call) -> Reply:
        """All users, without passwords."""
        return ok(
            [
                {
                    "id": user.id,
                    "username": user.username,
                    "user_type": user.user_type,
                    "creation_date": date_ms(user.created),
                    "already_logged_in": user.already_logged_in,
                    "avatar_id": user.avatar_id,
                }
                for user in self._state.users
            ]
        )

    async def remove_user(self, call: Call) -> Reply:
        """Removes another user than one's own, and not root."""
        username = call.values["username"].lower()
        if username == call.username:
            raise showable("You can't remove your own user")
        user = self._state.user(username)
        if user is None:
            raise showable("User does not exist")
        if user.user_type == ROOT:
            raise showable("You can not remove the root user")
        self._remove(user)
        return ok({})

    async def remove_my_user(self, call: Call) -> Reply:
        """Removes the user of the token."""
        if call.user_type == ROOT:
            raise abort(500, "Root user can not be deleted")
        user = self._state.user(call.username)
        if user is not None:
            self._remove(user)
        return ok({})

    def _remove(self, user: User) -> None:
        self._presence.remove_user(user)
        self._state.note(f"User {user.username} has been deleted")

    async def edit_avatar(self, call: Call) -> Reply:
        """Another picture."""
        user = self._caller(call)
        user.avatar_id = call.values["avatar_id"]
        return ok(_profile(user))

    async def edit_hub_creds(self, call: Call) -> Reply:
        """The avatar in the reply is that of the token, not the stored one."""
        user = self._caller(call)
        user.hub_username, user.hub_password = call.values["hub_username"], call.values["hub_password"]
        return ok({**_profile(user), "avatar_id": call.claims["avatar_id"]})

    def _caller(self, call: Call) -> User:
        user = self._state.user(call.username)
        if user is None:
            raise server_error()
        return user


def _profile(user: User) -> dict[str, object]:
    return {
        "already_logged_in": user.already_logged_in,
        "avatar_id": user.avatar_id,
        "creation_date": date_ms(user.created),
        "hub_password": user.hub_password,
        "hub_username": user.hub_username,
        "id": user.id,
        "user_type": user.user_type,
        "username": user.username,
    }


def hashed(password: str, salt: str) -> str:
    """The salt (32 characters) and the hash of the password with it."""
    return salt + hashlib.pbkdf2_hmac("sha256", password.encode(), salt.encode(), _ROUNDS).hex()
