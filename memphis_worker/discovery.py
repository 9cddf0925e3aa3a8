"""`package.module:attribute` -> App, and the modules that hold its handlers."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

from memphis_worker.app import App
from memphis_worker.errors import AppNotFound, UsageError

__all__ = ["load_app"]


def load_app(target: str, *, app_dir: str = ".", factory: bool = False) -> App:
    """Imports the app and the modules of its `discover=`.

    app_dir: put on the import path first. factory: the attribute is a function that returns the App.
    Raises AppNotFound, UsageError; an exception from the user's own module comes through as it is.
    """
    module_name, colon, attribute = target.partition(":")
    if not colon or not module_name or not attribute:
        raise AppNotFound(f"{target!r} is no app path; write module:attribute, as in shop.main:app")
    if not all(part.isidentifier() for part in module_name.split(".")) or module_name.endswith(".py"):
        raise AppNotFound(
            f"{target!r}: {module_name!r} is no module; write it with dots and without .py, as in shop.main:app, "
            "and name its folder with --app-dir"
        )
    folder = Path(app_dir)
    if not folder.is_dir():
        raise AppNotFound(f"--app-dir {app_dir!r} is no folder")
    path = str(folder.resolve())
    if path not in sys.path:
        sys.path.insert(0, path)
    found: object = _import(module_name, f"{target!r}")
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise AppNotFound(
                f"{target!r}: module {module_name!r} has no attribute {attribute!r}{_hint(found)}"
            ) from None
    if factory:
        if not callable(found) or isinstance(found, App):
            raise AppNotFound(f"{target!r} is no factory (a function that returns an App); leave --factory out")
        found = found()
    if not isinstance(found, App):
        kind = type(found).__name__
        advice = "; with --factory it would be called" if callable(found) else ""
        raise AppNotFound(f"{target!r} is no memphis_worker.App but a {kind}{advice}")
    for name in found.discover:
        _discover(name, found)
    return found


def _import(name: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (name == exc.name or name.startswith(exc.name + ".")):
            raise AppNotFound(
                f"{where}: no module named {exc.name!r}; check the spelling and --app-dir (it is on the import path)"
            ) from None
        raise


def _discover(name: str, app: App) -> None:
    module = _import(name, f"App {app.name!r}, discover={name!r}")
    if not hasattr(module, "__path__"):
        return

    def broken(package: str) -> None:
        raise UsageError(f"App {app.name!r}, discover={name!r}: package {package!r} cannot be imported")

    for each in pkgutil.walk_packages(module.__path__, module.__name__ + ".", onerror=broken):
        if not each.name.endswith("__main__"):
            importlib.import_module(each.name)


def _hint(module: object) -> str:
    apps = (
        [name for name, value in vars(module).items() if isinstance(value, App)] if hasattr(module, "__dict__") else []
    )
    return f"; it has {', '.join(sorted(apps))}" if apps else ""
