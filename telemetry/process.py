"""The process itself: heartbeat, memory, CPU. Read at each export."""

import time

import psutil

from telemetry import attributes, schema
from telemetry.instruments import Instruments, Reading


def observe(instruments: Instruments) -> None:
    """Report this process from now on.

    `process.uptime` is the heartbeat: a process that is gone stops sending it, and an alert sees that.
    """
    process = psutil.Process()
    started = process.create_time()
    mode = attributes.CPU_MODE.name

    def cpu() -> Reading:
        times = process.cpu_times()
        return [(times.user, {mode: "user"}), (times.system, {mode: "system"})]

    instruments.observe(schema.UPTIME, lambda: [(time.time() - started, {})])
    instruments.observe(schema.MEMORY, lambda: [(process.memory_info().rss, {})])
    instruments.observe(schema.CPU_TIME, cpu)
