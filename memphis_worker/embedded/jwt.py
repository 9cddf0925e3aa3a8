"""JSON web tokens with an HMAC signature, as Memphis 0.3.0 issues and accepts them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping

_DIGESTS = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}


def sign(claims: Mapping[str, object], secret: str, expires_in_s: float) -> str:
    """A HS256 token. `exp` is a whole second: two tokens of one second are the same."""
    payload = {**claims, "exp": int(time.time() + expires_in_s)}
    signed = f"{_pack({'alg': 'HS256', 'typ': 'JWT'})}.{_pack(payload)}"
    return f"{signed}.{_signature(signed, secret, 'HS256')}"


def verify(token: str, secret: str) -> dict[str, object] | None:
    """The claims, or None for a token that is malformed, wrongly signed or expired.

    As in Memphis 0.3.0: any HMAC algorithm, no `exp` never expires, and the second of `exp` still counts.
    """
    try:
        header, payload, signature = token.split(".")
        algorithm = str(_unpack(header).get("alg"))
        claims = _unpack(payload)
    except ValueError:
        return None
    if algorithm not in _DIGESTS or not hmac.compare_digest(
        signature.encode(), _signature(f"{header}.{payload}", secret, algorithm).encode()
    ):
        return None
    expires = claims.get("exp")
    if isinstance(expires, int | float) and time.time() >= expires + 1:
        return None
    return claims


def _signature(signed: str, secret: str, algorithm: str) -> str:
    return _encode(hmac.new(secret.encode(), signed.encode(), _DIGESTS[algorithm]).digest())


def _pack(value: Mapping[str, object]) -> str:
    return _encode(json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode())


def _unpack(part: str) -> dict[str, object]:
    value = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
