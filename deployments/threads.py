"""Threads with a name that the operating system shows, too."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def pool(name: str, workers: int) -> ThreadPoolExecutor:
    """Return a pool whose threads are called `name` in `top -H`, `ps -L` and `perf`, not only in Python.

    Args:
        name: At most 15 characters.
        workers: Threads, >= 1.
    """
    return ThreadPoolExecutor(
        workers, thread_name_prefix=name, initializer=_call_this_thread, initargs=(name,)
    )


def _call_this_thread(name: str) -> None:
    with contextlib.suppress(OSError):  # Linux only
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(name)
