"""Run another program to its end and read what it prints; end it, with all its children, if asked to stop."""

import shutil
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from launch.processes import ProcessTree
from launch.programs.errors import CommandFailed, Stopped

PAUSE_S = 0.1


def run(
    command: Sequence[str],
    environ: Mapping[str, str],
    log: Path,
    stop: threading.Event,
    on_lines: Callable[[Sequence[str]], None] = lambda lines: None,
) -> None:
    """Return when it has ended well.

    Args:
        command: Path of the program, and arguments; it runs with the lowest priority: answers go first.
        environ: Its whole environment.
        log: A new file for its output.
        stop: Set by anybody to end it.
        on_lines: Told of each bunch of new lines, also of an empty one, every 0.1 s.

    Raises:
        Stopped: `stop` was set.
        CommandFailed: it ended with an error.
    """
    # Ended by the kernel when we are killed: ProcessTree sees to that.
    tree = ProcessTree([*_nicely(), *command], environ, log)
    try:
        with log.open(encoding="utf-8", errors="replace") as output:
            lines = _WholeLines(output)
            while tree.exit_code() is None:
                on_lines(lines.new())
                pause(stop)
            on_lines(lines.new())
    finally:
        tree.end()
    if code := tree.exit_code():
        raise CommandFailed(code, tree.last_words(20))


def pause(stop: threading.Event) -> None:
    """Wait for a moment; raise Stopped if that was asked for."""
    if stop.wait(PAUSE_S):
        raise Stopped


class _WholeLines:
    """Reads a file that grows: a line counts once its end is there."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._rest = ""

    def new(self) -> list[str]:
        """Return the lines that were completed since the last call."""
        *whole, self._rest = (self._rest + self._file.read()).split("\n")
        return whole


def _nicely() -> list[str]:
    nice = shutil.which("nice") if sys.platform != "win32" else None
    return [nice, "-n", "19"] if nice else []
