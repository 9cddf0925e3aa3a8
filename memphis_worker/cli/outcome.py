"""How a command ends: one line for every error that was meant, a traceback for every other one, and the exit code."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import click

import memphis_worker
from memphis_worker.errors import MemphisWorkerError, UsageError

__all__ = ["PROG", "ImportFailed", "finish", "masked", "user_line"]

PROG = "memphis-worker"
_PACKAGE = str(Path(memphis_worker.__file__).parent)
#: What stands before the @ of a URL, but for the USER:TOKEN of our own texts.
_CREDENTIALS = re.compile(r"(?<=://)(?!USER:TOKEN@)[^/@\s'\"]*@")


class ImportFailed(UsageError):
    """The user's own module raised; `__cause__` is what it raised."""


def finish(work: Callable[[], object]) -> int:
    """Runs a command and returns its exit code; what went wrong is on stderr by then."""
    try:
        result = work()
    except ImportFailed as exc:
        if exc.__cause__ is not None:
            _write(_own_traceback(exc.__cause__))
        return _failed(str(exc), exc.exit_code)
    except MemphisWorkerError as exc:
        return _failed(str(exc), exc.exit_code)
    except click.exceptions.NoArgsIsHelpError as exc:
        _write(exc.format_message() + "\n")
        return 2
    except click.UsageError as exc:
        return _failed(_usage(exc), 2)
    except click.ClickException as exc:
        return _failed(exc.format_message(), 2)
    except (click.Abort, KeyboardInterrupt):
        return _failed("interrupted", 1)
    except BrokenPipeError:
        # Whoever read our output is gone; without this the interpreter would complain of it once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception:  # noqa: BLE001 - the last place that can say so
        _write(traceback.format_exc())
        return _failed("crashed; the lines above say where", 1)
    return result if isinstance(result, int) else 0


def masked(text: str) -> str:
    """The text without what stands before the @ of a URL."""
    return _CREDENTIALS.sub("***@", text)


def user_line(trace: TracebackType | None) -> str:
    """` (file:line)` of the last frame that is the user's own, or nothing."""
    found = ""
    for frame in traceback.extract_tb(trace):
        if not _foreign(frame.filename):
            found = f" ({_short(frame.filename)}:{frame.lineno})"
    return found


def _own_traceback(error: BaseException) -> str:
    """From the user's first frame on; the import machinery and our own frames are of no use to anyone."""
    shown = traceback.TracebackException.from_exception(error)
    each: traceback.TracebackException | None = shown
    while each is not None:
        frames = list(each.stack)
        first = next((i for i, frame in enumerate(frames) if not _foreign(frame.filename)), len(frames))
        kept = [frame for frame in frames[first:] if not _machinery(frame.filename)]
        each.stack = traceback.StackSummary.from_list(kept)
        each = each.__cause__ or each.__context__
    return "".join(shown.format())


def _machinery(filename: str) -> bool:
    return filename.startswith("<frozen importlib") or "/importlib/" in filename


def _foreign(filename: str) -> bool:
    return filename.startswith((_PACKAGE, "<")) or _machinery(filename)


def _short(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename


def _usage(exc: click.UsageError) -> str:
    text = exc.format_message().rstrip(".")
    where = exc.ctx.command_path if exc.ctx is not None else PROG
    return f"{text} (see {where} --help)"


def _failed(text: str, code: int) -> int:
    _write(f"{PROG}: error: {masked(' '.join(text.split()))}\n")
    return code


def _write(text: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(masked(text))
    sys.stderr.flush()
