"""Every option, written once: default, unit and meaning. Flags, environment variables and chart values follow from it.

Public options keep the names and units of the Memphis SDK (`_ms`, `_s`, `_sec`); secrets never show in a repr.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, quote, unquote, urlsplit

from memphis_worker.checked import check_types
from memphis_worker.errors import InvalidOption, InvalidURL

__all__ = [
    "BATCH_MAX",
    "ENV_PREFIX",
    "ConnectOptions",
    "GroupOptions",
    "HandlerOptions",
    "StationOptions",
    "WorkerOptions",
    "retention_types",
    "storage_types",
]

ENV_PREFIX = "MEMPHIS_WORKER_"
BATCH_MAX = 10_000


class retention_types:
    """What limits a station: the unit of `retention_value`."""

    MAX_MESSAGE_AGE_SECONDS = "message_age_sec"
    MESSAGES = "messages"
    BYTES = "bytes"


class storage_types:
    """Where a station keeps its messages."""

    FILE = "file"
    MEMORY = "memory"


def _at_least(name: str, value: float, least: float) -> None:
    if value < least:
        raise InvalidOption(f"{name} is {value}; it must be {least} or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class StationOptions:
    """How a station is made where it is missing. A station that exists is never changed."""

    retention_type: str = retention_types.MAX_MESSAGE_AGE_SECONDS
    """One of `retention_types`."""
    retention_value: int = 604_800
    """Seconds, messages or bytes, by `retention_type`. Default: 7 days."""
    storage_type: str = storage_types.FILE
    """One of `storage_types`."""
    replicas: int = 1
    """Copies in the broker's cluster, 1 to 5."""
    dedup_enabled: bool = False
    """Whether a message id that comes twice within `dedup_window_ms` is stored once."""
    dedup_window_ms: int = 0
    """Milliseconds. Memphis classic never goes below 100."""
    factory_name: str = ""
    """Memphis classic only: empty means `melvis`, the broker's own default."""

    def __post_init__(self) -> None:
        check_types(self)
        kinds = (retention_types.MAX_MESSAGE_AGE_SECONDS, retention_types.MESSAGES, retention_types.BYTES)
        if self.retention_type not in kinds:
            raise InvalidOption(f"retention_type is {self.retention_type!r}; it must be one of {', '.join(kinds)}")
        if self.storage_type not in (storage_types.FILE, storage_types.MEMORY):
            raise InvalidOption(f"storage_type is {self.storage_type!r}; it must be file or memory")
        _at_least("retention_value", self.retention_value, 1)
        _at_least("dedup_window_ms", self.dedup_window_ms, 0)
        if not 1 <= self.replicas <= 5:
            raise InvalidOption(f"replicas is {self.replicas}; it must be from 1 to 5")
        aged = self.retention_type == retention_types.MAX_MESSAGE_AGE_SECONDS
        if self.dedup_enabled and aged and self.dedup_window_ms > self.retention_value * 1000:
            raise InvalidOption(
                f"dedup_window_ms is {self.dedup_window_ms}, longer than the retention of {self.retention_value} s; "
                "shorten the window or keep messages longer"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOptions:
    """What a consumer group's delivery depends on."""

    max_ack_time_ms: int = 30_000
    """Milliseconds from a delivery until the broker gives the message to somebody else. Running handlers extend it."""
    max_msg_deliveries: int = 10
    """Attempts before a message is dead-lettered."""
    server_deliveries: int | None = None
    """What to tell the broker as its own limit; `None`: the same as `max_msg_deliveries`."""

    def __post_init__(self) -> None:
        check_types(self)
        _at_least("max_ack_time_ms", self.max_ack_time_ms, 1)
        _at_least("max_msg_deliveries", self.max_msg_deliveries, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerOptions:
    """What `@app.handler` takes besides station, group and name."""

    concurrency: int | None = None
    """Handlers that run at once; `None`: what the process allows (a plain `def`: its threads)."""
    batch_size: int | None = None
    """The most that one pull asks for; `None`: what the window allows."""
    pull_interval_ms: int = 1000
    """The longest pause of an idle consumer between two pulls [ms]. A busy one never waits."""
    batch_max_time_to_wait_ms: int = 5000
    """How long one pull stays open at the broker [ms]."""
    max_ack_time_ms: int = 30_000
    """See GroupOptions."""
    max_msg_deliveries: int = 10
    """See GroupOptions."""
    timeout_s: float | None = None
    """Seconds that one run may take; `None`: no limit. For `async def` only."""
    dead_letter: str | Literal[False] = "auto"
    """`auto`: the station `memphis_worker_dead`; another station's name; False: the message is dropped and counted."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("concurrency", "batch_size"):
            value = getattr(self, name)
            if value is not None:
                _at_least(name, value, 1)
        if self.batch_size is not None and self.batch_size > BATCH_MAX:
            raise InvalidOption(f"batch_size is {self.batch_size}; it must be {BATCH_MAX} or less")
        _at_least("pull_interval_ms", self.pull_interval_ms, 0)
        _at_least("batch_max_time_to_wait_ms", self.batch_max_time_to_wait_ms, 100)
        _at_least("max_ack_time_ms", self.max_ack_time_ms, 100)
        _at_least("max_msg_deliveries", self.max_msg_deliveries, 1)
        if self.timeout_s is not None and self.timeout_s <= 0:
            raise InvalidOption(f"timeout_s is {self.timeout_s}; it must be more than 0")
        if not (self.dead_letter is False or (isinstance(self.dead_letter, str) and self.dead_letter)):
            raise InvalidOption(f"dead_letter is {self.dead_letter!r}; it must be 'auto', False or a station's name")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """Where the broker is and who signs in there."""

    kind: Literal["memphis", "nats", "embedded"] = "memphis"
    host: str = "localhost"
    username: str = "root"
    connection_token: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    management_port: int = 5555
    tcp_port: int = 6666
    data_port: int = 7766
    protocol: Literal["auto", "classic", "native"] = "auto"
    directory: Path | None = None
    """`embedded:` only: where streams and records are kept; `None`: a temporary folder."""
    reconnect: bool = True
    max_reconnect: int = -1
    """Attempts in a row before the connection is given up; -1: for ever."""
    reconnect_interval_ms: int = 250
    """Milliseconds between two attempts, with jitter."""
    timeout_ms: int = 5000
    """Milliseconds that a sign-in, a request or a reply may take."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("management_port", "tcp_port", "data_port"):
            if not 0 < getattr(self, name) < 65536:
                raise InvalidOption(f"{name} is {getattr(self, name)}; it must be a port from 1 to 65535")
        _at_least("reconnect_interval_ms", self.reconnect_interval_ms, 0)
        _at_least("timeout_ms", self.timeout_ms, 1)
        _at_least("max_reconnect", self.max_reconnect, -1)
        if self.password is not None and self.connection_token is not None:
            raise InvalidOption("both a password and a connection token are given; keep the one that the broker wants")

    @property
    def url(self) -> str:
        """The URL without its secrets, fit for a log."""
        if self.kind == "embedded":
            return f"embedded://{self.directory}" if self.directory else "embedded:"
        ports = f"management_port={self.management_port}&tcp_port={self.tcp_port}&data_port={self.data_port}"
        return f"memphis://{quote(self.username)}@{self.host}?{ports}"

    @classmethod
    def from_url(cls, url: str | None = None, env: Mapping[str, str] | None = None) -> ConnectOptions:
        """Reads a URL; what it leaves out comes from the environment (`MEMPHIS_WORKER_HOST`, `_CONNECTION_TOKEN`, …).

        `url=None`: `MEMPHIS_WORKER_URL`, else `memphis://<MEMPHIS_WORKER_HOST or localhost>`.
        Raises InvalidURL, InvalidOption.
        """
        env = os.environ if env is None else env
        url = url or env.get(ENV_PREFIX + "URL")
        if not url:
            url = f"memphis://{env.get(ENV_PREFIX + 'HOST') or 'localhost'}"
        return cls(**{**_from_env(env), **_from_url(url)})


def _safe(url: str) -> str:
    """Scheme and host only: a secret with an unquoted / ? # or @, or in the wrong place, must not show either."""
    scheme, slashes, rest = url.rpartition("://")
    user, at, host = rest.rpartition("@")
    host, *more = re.split(r"[/?#:]", host, maxsplit=1)
    hidden = "***@" if user or at else ""
    return f"{scheme}{slashes}{hidden}{host}{':***' if more and not slashes else ''}"


def _from_url(url: str) -> dict[str, Any]:
    scheme = url.partition(":")[0].lower() if ":" in url else ""
    if scheme == "embedded":
        return {"kind": "embedded", **_embedded_directory(url)}
    if scheme in ("nats", "tls"):
        raise InvalidURL(
            f"{_safe(url)!r}: plain NATS is not supported by this version; "
            "use a Memphis broker (memphis://) or embedded:"
        )
    if scheme != "memphis" or "://" not in url:
        raise InvalidURL(
            f"{_safe(url)!r} is not a broker's URL; it begins with memphis:// or embedded:, "
            "as in memphis://USER:TOKEN@HOST"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # Its text may quote a part of the token.
        raise InvalidURL(f"{_safe(url)!r} cannot be read; write memphis://USER:TOKEN@HOST?tcp_port=6666") from None
    if "@" in f"{parts.path}{parts.query}{parts.fragment}":
        raise InvalidURL(
            f"{_safe(url)!r}: user or token holds a character that must be quoted (%2F for /, %3F for ?, %23 for #)"
        )
    if port is not None:
        raise InvalidURL(
            f"{_safe(url)!r} has a port behind the host; Memphis has several: "
            "use ?tcp_port=, ?management_port=, ?data_port="
        )
    if parts.path.strip("/"):
        raise InvalidURL(f"{_safe(url)!r} has a path behind the host; a memphis:// URL has none")
    found: dict[str, Any] = {"kind": "memphis"}
    if parts.hostname:
        found["host"] = parts.hostname
    if parts.username:
        found["username"] = unquote(parts.username)
    query = parse_qs(parts.query, keep_blank_values=True)
    known = {"management_port", "tcp_port", "data_port", "protocol"}
    unknown = sorted(set(query) - known)
    if unknown:
        raise InvalidURL(f"{_safe(url)!r}: unknown option {unknown[0]!r}; known are {', '.join(sorted(known))}")
    for name, values in query.items():
        found[name] = _protocol(values[-1]) if name == "protocol" else _number(name, values[-1])
    if parts.password:
        found["connection_token"] = unquote(parts.password)
    return found


def _embedded_directory(url: str) -> dict[str, Any]:
    rest = url[len("embedded:") :]
    if rest in ("", "//", "///"):
        return {}
    if not rest.startswith("///"):
        raise InvalidURL(f"{url!r}: write embedded: or embedded:///absolute/folder")
    return {"directory": Path(unquote(rest[2:]))}


def _number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidOption(f"{name} is {text!r}; it must be a whole number") from None


def _protocol(text: str) -> str:
    if text == "native":
        raise InvalidOption("protocol is 'native'; this version speaks the classic protocol (Memphis up to 0.3.0)")
    if text not in ("auto", "classic"):
        raise InvalidOption(f"protocol is {text!r}; it must be classic or native")
    return text


def _flag(name: str, text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("0", "false", "no", "off"):
        return False
    raise InvalidOption(f"{name} is {text!r}; it must be true or false")


def _from_env(env: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for option in fields(ConnectOptions):
        text = env.get(ENV_PREFIX + option.name.upper())
        if text is None or text == "" or option.name in ("kind", "directory"):
            continue
        name = ENV_PREFIX + option.name.upper()
        if option.type == "int":
            found[option.name] = _number(name, text)
        elif option.type == "bool":
            found[option.name] = _flag(name, text)
        elif option.name == "protocol":
            found[option.name] = _protocol(text)
        else:
            found[option.name] = text
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """How one worker process runs."""

    concurrency: int = 100
    """Handlers that run at once in the process, over all its stations."""
    threads: int | None = None
    """Threads for plain `def` handlers; `None`: 40, and never more than `concurrency`."""
    shutdown_timeout_s: float = 30.0
    """Seconds that running handlers get after the stop signal."""
    stall_timeout_s: float = 30.0
    """Seconds of a blocked event loop until `/healthz` fails."""
    http: str | None = "0.0.0.0:9090"
    """`HOST:PORT` of metrics and health; `None`: no server."""
    name: str = ""
    """The worker's name in logs."""
    handlers: tuple[str, ...] = ()
    """Only these handlers, by name; empty: all."""
    exclude: tuple[str, ...] = ()
    """Not these handlers, by name."""
    window_bytes: int = 64 * 1024 * 1024
    """Bytes of messages that the process holds before it stops asking for more."""

    def __post_init__(self) -> None:
        check_types(self)
        _at_least("concurrency", self.concurrency, 1)
        _at_least("shutdown_timeout_s", self.shutdown_timeout_s, 0)
        if self.stall_timeout_s <= 0:
            raise InvalidOption(f"stall_timeout_s is {self.stall_timeout_s}; it must be more than 0")
        if self.threads is not None:
            _at_least("threads", self.threads, 1)
        _at_least("window_bytes", self.window_bytes, 1024)

    @property
    def thread_limit(self) -> int:
        return min(self.threads or 40, self.concurrency)
