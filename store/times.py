"""Times on command lines: RFC 3339, or how long ago."""

import re
from datetime import UTC, datetime, timedelta

AGO = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_time(text: str, now: datetime | None = None) -> datetime:
    """Return the time that is meant, in UTC.

    Args:
        text: `2026-11-26T12:00:00Z`, `2026-11-26`, or how long before now: `90s`, `30m`, `1h`, `7d`, `2w`.
        now: The time; for tests.

    Raises:
        ValueError: It is none of these; says so.
    """
    now = now or datetime.now(UTC)
    if (ago := AGO.fullmatch(text)) is not None:
        try:
            return now - timedelta(**{UNITS[ago[2]]: float(ago[1])})
        except OverflowError:
            raise ValueError(f"{text!r} is longer ago than there are years.") from None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is no time: use RFC 3339 (2026-11-26T12:00:00Z), a day (2026-11-26), "
            "or how long ago (90s, 30m, 1h, 7d)."
        ) from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
