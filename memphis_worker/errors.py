"""The error tree. Each class carries the exit code that the command line gives for it.

MemphisWorkerError                 1
├── UsageError                     2   bad input: the caller must change something
│   ├── InvalidOption              an option, or a pair of options, out of range
│   ├── InvalidURL                 where the broker is
│   ├── InvalidName                station, group, producer, consumer, factory
│   ├── InvalidHandler             a handler that could never be called
│   ├── AppNotFound                no such module, attribute, or not an App
│   ├── MissingExtra               an optional package is not installed
│   └── PortTaken                  somebody else listens there
├── BrokerError                    3
│   ├── NotReachable               nobody answers there
│   ├── BrokerRefused              the broker said no, with its own words
│   │   └── AuthenticationFailed   user, password or token
│   ├── Missing                    a station, group or member that is not there
│   ├── AlreadyExists              a name that is taken
│   └── Differs                    what exists is not what was asked for
├── ConnectionClosed               1   used after close(), or given up reconnecting
├── Disconnected                   1   not possible while the connection is down
├── RequestTimeout                 1   asked, and no answer within the time
├── ProduceFailed                  1   the broker has not confirmed the message
│   └── PayloadTooLarge            refused before anything was sent (2)
└── DecodeError                    1   a body that does not fit its annotation
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AlreadyExists",
    "AppNotFound",
    "AuthenticationFailed",
    "BrokerError",
    "BrokerRefused",
    "ConnectionClosed",
    "DecodeError",
    "Differs",
    "Disconnected",
    "InvalidHandler",
    "InvalidName",
    "InvalidOption",
    "InvalidURL",
    "MemphisWorkerError",
    "Missing",
    "MissingExtra",
    "NotReachable",
    "PayloadTooLarge",
    "PortTaken",
    "ProduceFailed",
    "RequestTimeout",
    "UsageError",
]


class MemphisWorkerError(Exception):
    """Everything this package raises on purpose. The text says what happened, to which name, and what to do."""

    exit_code: ClassVar[int] = 1


class UsageError(MemphisWorkerError):
    """Bad input; nothing was done."""

    exit_code = 2


class InvalidOption(UsageError):
    """An option, or a pair of options, that cannot hold."""


class InvalidURL(UsageError):
    """The broker's URL cannot be read."""


class InvalidName(UsageError):
    """A station, group, producer, consumer or factory name that the broker would refuse."""


class InvalidHandler(UsageError):
    """A handler that could never be called, or that exists twice."""


class AppNotFound(UsageError):
    """`module:attr` leads to no App."""


class MissingExtra(UsageError):
    """An optional package is needed and not installed; the text names the extra."""


class PortTaken(UsageError):
    """Somebody else listens on the port; the text names it."""


class BrokerError(MemphisWorkerError):
    """The broker, or the lack of one."""

    exit_code = 3


class NotReachable(BrokerError):
    """Nobody answers at the broker's address."""


class BrokerRefused(BrokerError):
    """The broker said no. The text holds the broker's own words."""


class AuthenticationFailed(BrokerRefused):
    """Unknown user, wrong password or wrong token."""


class Missing(BrokerError):
    """A station, group or member that the broker does not know."""


class AlreadyExists(BrokerError):
    """A name that is taken and cannot be shared."""


class Differs(BrokerError):
    """What exists is not what was asked for; the text has the difference. What exists is never changed."""


class ConnectionClosed(MemphisWorkerError):
    """Used after `close()`, or after the last allowed reconnect."""


class Disconnected(MemphisWorkerError):
    """Not possible while the connection is down; it may be tried again."""


class RequestTimeout(MemphisWorkerError):
    """A request got no answer within its time. It may have been carried out."""


class ProduceFailed(MemphisWorkerError):
    """The broker has not confirmed the message. It may have been stored all the same."""


class PayloadTooLarge(ProduceFailed):
    """Payload and headers exceed what the broker takes; nothing was sent."""

    exit_code = 2


class DecodeError(MemphisWorkerError):
    """A body that does not fit the handler's annotation. The text never holds the body."""
