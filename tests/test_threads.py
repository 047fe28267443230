"""Threads are called what they do, also where operators look."""

import threading
from pathlib import Path

from deployments.threads import pool


def test_the_operating_system_knows_the_name() -> None:
    """A pool's thread has the pool's name in the process table, as `top -H` shows it, and in Python."""

    def names() -> tuple[str, str]:
        comm = Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_text()
        return comm.strip(), threading.current_thread().name

    with pool("prepare", 1) as one:
        assert one.submit(names).result() == ("prepare", "prepare_0")
