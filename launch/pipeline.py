"""The telemetry pipeline beside the applications: installed and started on a thread of its own.

From an empty cache the programs take many minutes to build; the applications answer meanwhile,
and keep their latest log lines until the collector is there.
"""

import threading
from collections.abc import Callable
from pathlib import Path

from launch import backend_programs, programs
from launch.backends import Backends
from launch.dotenv import BadSetting
from launch.ports import PortTaken
from launch.processes import StartFailed

WATCH_S = 1.0
SHOWN = {
    "prometheus": "Prometheus, its API (a build of ours has no web page)",
    "loki": "Loki, its API",
    "alertmanager": "Alertmanager",
    "otelcol": "the collector: OTLP over HTTP",
}


class Pipeline:
    """Gets the programs, starts them, watches them.

    Args:
        make: Returns the backends for the programs' paths.
        note: Told what happens, one line a call, from another thread.
        stop: Set by anybody: whatever is being built or started is given up. Set here when a program fails.
    """

    def __init__(
        self,
        make: Callable[[dict[str, Path]], Backends],
        note: Callable[[str], None],
        stop: threading.Event,
    ) -> None:
        self._make = make
        self._note = note
        self._stop = stop
        self._backends: Backends | None = None
        self._failure: str | None = None
        self._up = threading.Event()
        self._settled = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live, name="telemetry", daemon=True)

    def start(self) -> None:
        """Begin, and return at once."""
        self._thread.start()

    def up(self) -> bool:
        """Tell whether all of it runs."""
        return self._up.is_set()

    def where(self) -> list[str]:
        """Return what answers where, a line each, for people."""
        urls = {} if self._backends is None else self._backends.urls
        return [f"{urls[name]}  {what}" for name, what in SHOWN.items() if name in urls]

    def failure(self) -> str | None:
        """Return which program did not start or ended by itself, with its last words; None: all is well."""
        return self._failure

    def end(self) -> None:
        """End the programs; `stop` must have been set. Idempotent."""
        if self._thread.ident is None:
            return
        self._settled.wait()
        if self._backends is not None:
            self._backends.stop(self._note)
        self._ended.set()
        self._thread.join()

    def _live(self) -> None:
        self._bring_up()
        self._settled.set()
        # The kernel ends a program with the thread that started it (`launch/leash.py`), not with the process:
        # so this thread stays, and watches them.
        while not self._ended.wait(WATCH_S):
            if self._backends is not None and not self._stop.is_set() and (words := self._backends.dead()):
                self._fail(words)

    def _fail(self, words: str) -> None:
        self._failure = words
        self._stop.set()

    def _bring_up(self) -> None:
        try:
            self._backends = self._make(backend_programs.find(progress=self._say, stop=self._stop))
            self._backends.start(self._stop, self._note)
        except programs.Stopped:
            return
        except programs.ProgramError as error:
            # Not ours to run: a site without Go and without a network still serves.
            self._note(
                f"telemetry is missing: {error}. The applications go on without it; "
                "GLASSHOUSE_TELEMETRY=off starts them alone."
            )
            return
        except (StartFailed, PortTaken, BadSetting) as error:
            self._fail(str(error))
            return
        except Exception as error:
            # Whatever it is, a folder that cannot be written perhaps: who waits for this thread must hear.
            self._fail(f"telemetry could not be started: {type(error).__name__}: {error}")
            return
        if not self._stop.is_set():
            self._up.set()

    def _say(self, line: str) -> None:
        self._note(f"telemetry: {line}")
