"""One process at a time in a folder that many share."""

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(lock: Path, waits: Callable[[], None]) -> Iterator[None]:
    """Hold a lock that dies with its process, so that a killed one blocks nobody.

    Args:
        lock: `.NAME.lock`; folders `.NAME-*` beside it, which a killed process left, are cleared away.
        waits: Called once if another process holds it.
    """
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waits()
            fcntl.flock(file, fcntl.LOCK_EX)
        # Nobody else works here now.
        for left in lock.parent.glob(f"{lock.stem}-*"):
            shutil.rmtree(left, ignore_errors=True)
        yield
