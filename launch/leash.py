"""`python -m launch.leash PROGRAM ARGUMENT…`: become PROGRAM, and be ended when the parent is.

A separate program, because code between fork and exec is unsafe in a process with threads.
"The parent" is the thread that started it: the kernel's rule, so that thread must live on.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(command: list[str]) -> None:
    """Ask the kernel for SIGTERM at the parent's death (Linux only), then exec."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == 1:  # it died before we could ask
            sys.exit(1)
    os.execv(command[0], command)  # noqa: S606  no shell is the point


if __name__ == "__main__":
    main(sys.argv[1:])
