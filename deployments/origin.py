"""Where a request came from: `source` and `tags`, by query or body, or else by header."""

from fastapi import Request
from pydantic import ValidationError

from deployments.http import invalid
from deployments.observer import Account
from deployments.schemas import Origin

HEADERS = {"source": "X-Glasshouse-Source", "tags": "X-Glasshouse-Tags"}


def note_origin(request: Request, known: Account, asked: Origin) -> None:
    """Note in the request's account where it came from; a header counts where the field is not given.

    Raises:
        InvalidValue: A header's value cannot be one.
    """
    given = {field: request.headers.get(header) for field, header in HEADERS.items()}
    if any(given.values()):
        try:
            said = Origin.model_validate(given)
        except ValidationError as error:
            raise invalid(error.errors()) from None
    else:
        said = asked
    known.source = asked.source or said.source
    tags = asked.tags or said.tags
    known.tags = tuple(tags.split(",")) if tags else ()
