"""The user's app, with the user's own mistakes told apart from ours."""

from __future__ import annotations

from memphis_worker.app import App
from memphis_worker.cli.outcome import ImportFailed, user_line
from memphis_worker.discovery import load_app
from memphis_worker.errors import MemphisWorkerError

__all__ = ["load"]


def load(target: str, *, app_dir: str, factory: bool) -> App:
    """The app of `module:attr`. What its modules raise becomes ImportFailed, whatever it is.

    Raises AppNotFound and UsageError as `load_app` does; what a decorator refuses says in which line it stands.
    """
    try:
        return load_app(target, app_dir=app_dir, factory=factory)
    except MemphisWorkerError as exc:
        where = user_line(exc.__traceback__)
        if not where:
            raise
        raise type(exc)(f"{exc}{where}") from None
    except (Exception, SystemExit) as exc:
        what = f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
        raise ImportFailed(f"{target!r} cannot be imported: {what}") from exc
