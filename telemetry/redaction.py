"""What must never leave the process in a log line: secrets, and the bytes of images.

A last line of defence, by patterns: who writes a log line does not put them there to begin with.
"""

import functools
import re

TEXT = 4_000  # characters of a message or of a value; Loki takes 64 kB of metadata a line
RUN = 200  # characters without a break from which a word is data, not a word

SECRET_NAMES = re.compile(
    r"authori[sz]ation|passw(?:or)?d|secret|token|api[-_]?key|cookie|credential|private[-_]?key",
    re.IGNORECASE,
)
# name=value, "name": "value", name: value; of Authorization the scheme is left.
_SECRETS = re.compile(
    # What stands before the word stays as it is; all that may repeat is bounded, or a long run of letters
    # takes minutes.
    r"""(?P<name>(?:authori[sz]ation|passw(?:or)?d|secret|token|api[-_]?key|cookie|credential)[\w-]{0,32}
        ["']?\s{0,4}[=:]\s{0,4}["']?)
        (?P<scheme>(?:bearer|basic|digest|token)\s{1,4})?
        [^\s"',;&)}\]]+""",
    re.IGNORECASE | re.VERBOSE,
)
_SCHEMES = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_USERINFO = re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?")
_DATA = re.compile(rf"[A-Za-z0-9+/=_-]{{{RUN},}}")
# What Python writes for bytes; its end may have been cut off.
_BYTES = re.compile(r"""\bb(?P<quote>['"])(?:\\.|(?!(?P=quote))[^\\]){32,}(?P=quote)?""")
# Half a surrogate pair is no text: neither UTF-8 nor OTLP can carry it.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ufffd\ud800-\udfff]{1,}")

# What any of the above needs to be there, in one quick look: most lines have none of it.
_SUSPECT = re.compile(
    r"[=:@\x00-\x08\x0b-\x1f\x7f\ufffd\ud800-\udfff]|b['\"]|eyJ|bearer|basic", re.IGNORECASE
)


@functools.lru_cache(maxsize=1024)
def is_secret(name: str) -> bool:
    """Tell whether a field of this name is not to be read by anybody."""
    return SECRET_NAMES.search(name) is not None


def clean_text(text: str, limit: int = TEXT) -> str:
    """Return `text` without secrets and data, at most `limit` characters of it and a note."""
    if len(text) < RUN and not _SUSPECT.search(text):
        return text
    if len(text) > limit:
        # Cut before the patterns run: what a client sent may be megabytes.
        text = f"{text[:limit]}… [{len(text) - limit} characters more]"
    text = _SECRETS.sub(lambda found: f"{found['name']}{found['scheme'] or ''}[redacted]", text)
    text = _SCHEMES.sub(r"\1 [redacted]", text)
    text = _USERINFO.sub("[redacted]", text)
    text = _JWT.sub("[redacted]", text)
    text = _BYTES.sub("[bytes]", text)
    text = _DATA.sub(lambda found: f"[{len(found[0])} characters of data]", text)
    return _CONTROL.sub("�", text)


def clean_value(value: object) -> str | int | float | bool:
    """Return `value` as something that a log line can carry: a number, or text that is clean."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"
    return clean_text(value if isinstance(value, str) else repr(value))
