"""`otel-collector/.env`: read it, and put its values into a text that has `${NAME}` in it."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from store.places import CHECKOUT

PIPELINE = CHECKOUT / "otel-collector"
_LINE = re.compile(r"(?P<name>[A-Z][A-Z0-9_]*)=(?P<value>.*)")
_VARIABLE = re.compile(r"\$\{([A-Z][A-Z0-9_]*)\}")


class BadSetting(ValueError):
    """A setting of the pipeline is wrong or missing; the message names it and the file."""


def read(path: Path = PIPELINE / ".env", environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return every setting of the file; a variable of `environ` overrides it, as in compose.

    Raises:
        BadSetting: A line is neither `NAME=value`, nor a comment, nor empty; names file and line.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        parsed = _LINE.fullmatch(line.rstrip())
        if parsed is None:
            raise BadSetting(f"{path.parent.name}/{path.name}, line {number}: {line!r} is not NAME=value.")
        found[parsed["name"]] = environ.get(parsed["name"]) or parsed["value"]
    return found


def variables(text: str) -> set[str]:
    """Return the names that `text` has as `${NAME}`; a comment's `${NAME}` counts too."""
    return set(_VARIABLE.findall(text))


def render(text: str, settings: Mapping[str, str]) -> str:
    """Return `text` with every `${NAME}` replaced; `$$` and `$1` are left alone.

    Raises:
        BadSetting: A name has no value; names it.
    """
    if missing := sorted(variables(text) - settings.keys()):
        raise BadSetting(f"No value for {', '.join(missing)}: add it to {PIPELINE.name}/.env.")
    return _VARIABLE.sub(lambda found: settings[found[1]], text)
