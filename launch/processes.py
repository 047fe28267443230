"""Start programs, and end them by their process ids: never by name, others may run the same program.

Ray's processes leave their parent's session, and HAProxy leaves its parent. What holds them together
is a mark in the environment that every child inherits.
"""

import contextlib
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

MARK = "GLASSHOUSE_RUN"


class StartFailed(RuntimeError):
    """A program did not come up; the message says which, and carries its last words."""


class ProcessTree:
    """One program, everything it started, and everything those started.

    Args:
        command: Program (its path) and arguments. It is ended when we are killed, too.
        environ: The whole environment; a mark is added.
        log: File that receives its output.
        cwd: Where it runs; None: where we do.
    """

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], log: Path, *, cwd: Path | None = None
    ) -> None:
        self.mark = uuid.uuid4().hex
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            self._root = subprocess.Popen(
                [sys.executable, "-m", "launch.leash", *command],
                env={**environ, MARK: self.mark},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us: we end it in order
            )
        self.pid = self._root.pid

    def exit_code(self) -> int | None:
        """Return how the program ended, None while it runs."""
        return self._root.poll()

    def last_words(self, lines: int = 15) -> str:
        """Return the end of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def members(self) -> list[psutil.Process]:
        """Return the processes alive now that carry the mark."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def ask_to_end(self) -> None:
        """Send the program SIGTERM, and do not wait."""
        if self.exit_code() is None:
            self._root.terminate()

    def kill(self) -> None:
        """End the program as a crash would (SIGKILL), and wait until it is gone."""
        self._root.kill()
        self._root.wait()

    def end(self, patience_s: float = 15.0) -> None:
        """Ask the program to end, wait, then kill what is left of its tree. Idempotent."""
        if self.exit_code() is None:
            self._root.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._root.wait(patience_s)
        for force in (False, True):
            left = self.members()
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill() if force else process.terminate()
            psutil.wait_procs(left, timeout=5)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._root.wait(5)
