"""Hand a Serve configuration to a Ray head and follow it until it answers or has failed."""

import re
import threading
import time
import urllib.error
from collections.abc import Callable, Mapping
from typing import Any

from launch.ray_head import RayHead

POLL_S = 0.5
DEPLOY_TIMEOUT_S = 600.0
FAILED = {"DEPLOY_FAILED", "UNHEALTHY"}
# The line of a traceback that names the exception: `package.module.SomeError: its message`.
_EXCEPTION = re.compile(r"[\w.]*(Error|Exception)(\(\w+\))?: ")


class DeployFailed(RuntimeError):
    """An application did not start; the message says which and why."""


def deploy(
    head: RayHead,
    config: Mapping[str, Any],
    *,
    note: Callable[[str], None] = lambda _: None,
    timeout_s: float = DEPLOY_TIMEOUT_S,
    stop: threading.Event | None = None,
) -> None:
    """Deploy, and return once every application of `config` is running, or `stop` is set.

    Raises:
        DeployFailed: An application failed, Ray refused the configuration or ended, or it took too long.
    """
    try:
        head.request("PUT", "/api/serve/applications/", config, timeout_s=60)
    except urllib.error.HTTPError as error:
        raise DeployFailed(f"Ray refused the configuration: {error.read().decode()[-2000:]}") from None
    names = [application["name"] for application in config["applications"]]
    seen: dict[str, str] = {}
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if stop is not None and stop.is_set():
            return
        if not head.alive():
            raise DeployFailed("Ray ended while the applications were starting.")
        found = head.applications() or {}
        for name in names:
            state = found.get(name, {}).get("status", "NOT_STARTED")
            if state in FAILED:
                raise DeployFailed(f"{name}: {reason(found[name])}")
            if seen.get(name) != state:
                seen[name] = state
                note(f"{name}: {state.lower().replace('_', ' ')}")
        if all(seen[name] == "RUNNING" for name in names):
            return
        time.sleep(POLL_S)
    raise DeployFailed(f"Not running after {timeout_s:g} s: {seen}.")


def reason(application: Mapping[str, Any]) -> str:
    """Return why an application failed: the exception's own words, without the traceback before them."""
    messages: list[str] = [application.get("message", "")]
    messages += [one.get("message", "") for one in application.get("deployments", {}).values()]
    for message in messages[::-1]:
        if words := _last_words(message):
            return words
    return " ".join(messages).strip()


def _last_words(message: str) -> str:
    lines = [line.rstrip() for line in message.splitlines() if line.strip()]
    starts = [index for index, line in enumerate(lines) if _EXCEPTION.match(line)]
    if not starts:
        return ""
    first = lines[starts[-1]].split(": ", 1)[1]
    # pydantic names the key in the lines below, and ends with the address of its manual.
    more = [line for line in lines[starts[-1] + 1 :] if "For further information visit" not in line]
    return "\n".join([first, *more]).strip()
