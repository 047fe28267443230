"""`python -m launch.programs`: install the telemetry programs, and say of each where it is and came from."""

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from launch.programs.catalogue import FOLDER, read_programs
from launch.programs.errors import ProgramError, Stopped
from launch.programs.installer import ALL, Installed, obtain, where
from launch.programs.pins import pin

INTERRUPTED = 130  # as a shell reports SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line a program; progress goes to standard error.

    Returns:
        0, 1 if one could not be had, 130 if interrupted.
    """
    options = _parse(arguments)
    try:
        if options.pin:
            pin(tuple(options.names or read_programs(options.folder)), _tell, options.folder)
        elif options.where:
            return _where(options.names or ALL, options.folder)
        else:
            _install(options.names or ALL, options.folder, _stop_at_signals())
    except Stopped as error:
        _tell(str(error))
        return INTERRUPTED
    except ProgramError as error:
        _tell(f"failed: {error}")
        return 1
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m launch.programs", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ALL)}; default: all")
    parser.add_argument("--where", action="store_true", help="only say where they are now; install nothing")
    parser.add_argument(
        "--pin",
        action="store_true",
        help="write the publishers' checksums into releases.sha256 (maintainers)",
    )
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="of programs.yaml; default: the checkout's"
    )
    return parser.parse_args(arguments)


def _install(names: Sequence[str], folder: Path, stop: threading.Event) -> None:
    for name in names:
        _print(name, obtain(name, progress=_tell, stop=stop, folder=folder))


def _where(names: Sequence[str], folder: Path) -> int:
    found = {name: where(name, folder=folder) for name in names}
    for name, installed in found.items():
        if installed is None:
            _tell(f"{name} is not installed")
        else:
            _print(name, installed)
    return 1 if None in found.values() else 0


def _print(name: str, installed: Installed) -> None:
    sys.stdout.write(f"{name}\t{installed.path}\t{installed.source}\n")
    sys.stdout.flush()


def _stop_at_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stop.set())
    return stop


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
