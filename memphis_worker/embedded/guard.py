"""The parent of nats-server: a small process that never outlives the broker and never leaves nats-server behind.

Run as a script, with the standard library only: `guard.py PARENT_PID PROGRAM ARGUMENT...`. It starts the program,
writes its pid and a newline to stdout and ends with it; the end of stdout is therefore the news that it is gone.
It ends the program when stdin closes (the broker closed it, or died by whatever signal) or, on Linux, when the broker's
pid is gone although a forked copy still holds stdin open. A temporary folder of a broker that died goes with it.

Why a process: PR_SET_PDEATHSIG fires when the *thread* that forked ends, and a `preexec_fn` is unsafe in a program with
threads. This one has one thread, so both are sound: on Linux nats-server dies even with a SIGKILL of this process.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys

PR_SET_PDEATHSIG = 1
GRACE_S = 5.0


def main(parent: int, command: list[str]) -> int:
    """Runs the command until it ends or the parent is gone; its exit code."""
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    temporary = os.environ.pop("GUARD_TEMPORARY", "")
    # The lock of the folder: held by nats-server too, so that a successor waits for its end.
    inherited = [int(fd) for fd in os.environ.pop("GUARD_PASS_FDS", "").split(",") if fd]
    child = subprocess.Popen(  # noqa: S603 - the broker's own command
        command, stdin=subprocess.DEVNULL, stdout=sys.stderr, preexec_fn=_die_with_parent, pass_fds=inherited
    )
    os.write(sys.stdout.fileno(), f"{child.pid}\n".encode())
    watched = [sys.stdin.fileno(), wake, *_pidfd(parent)]
    while child.poll() is None:
        ready, _, _ = select.select(watched, [], [])
        if ready != [wake]:
            code = _end(child)
            if temporary and os.getppid() != parent:  # nobody else is left to remove it
                shutil.rmtree(temporary, ignore_errors=True)
            return code
        os.read(wake, 4096)
    return child.returncode


def _end(child: subprocess.Popen[bytes]) -> int:
    child.terminate()
    try:
        return child.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


def _pidfd(parent: int) -> list[int]:
    if not hasattr(os, "pidfd_open"):
        return []
    try:
        return [os.pidfd_open(parent)]
    except OSError:  # the parent is gone (stdin tells), or an old kernel
        return []


def _die_with_parent() -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
