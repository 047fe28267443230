"""One process at a time in a folder that many share."""

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def alone(
    lock: Path, waits: Callable[[], None], patience: Callable[[], None] | None = None
) -> Iterator[None]:
    """Hold a lock that dies with its process, so that a killed one blocks nobody.

    Args:
        lock: `.NAME.lock`; folders `.NAME-*` beside it, which a killed process left, are cleared away.
        waits: Called once if another process holds it.
        patience: Called again and again while waiting: it pauses for a moment, or raises to give up.
            None waits as long as it takes.
    """
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waits()
            _wait(file.fileno(), patience)
        # Nobody else works here now.
        for left in lock.parent.glob(f"{lock.stem}-*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def _wait(file: int, patience: Callable[[], None] | None) -> None:
    if patience is None:
        fcntl.flock(file, fcntl.LOCK_EX)
        return
    while True:
        patience()
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
