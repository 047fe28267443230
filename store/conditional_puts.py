"""Does a storage refuse to write what is there already? Where it does not, commits are lost without a word.

Delta Lake's writers agree by putting the next number of a table's log under the condition that nobody has.
"""

from datetime import timedelta
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import from_url

from store.errors import StoreError

if TYPE_CHECKING:
    from obstore.store import RetryConfig

KEY = "_conditional_puts"
RETRY: "RetryConfig" = {"max_retries": 2, "retry_timeout": timedelta(seconds=10)}


class Unsafe(StoreError):
    """The storage loses commits of several writers."""


def check(uri: str) -> None:
    """Put one key twice, if it is not there; return where the second is refused.

    Args:
        uri: Of the store; a folder is always safe.

    Raises:
        Unsafe: The storage ignores the condition; says what to do.
        StoreError: It cannot be reached.
    """
    if "://" not in uri:
        return
    try:
        storage = from_url(uri, client_options={"allow_http": True}, retry_config=RETRY)
        for _ in range(2):
            try:
                obstore.put(storage, KEY, b"glasshouse", mode="create")
            except AlreadyExistsError:
                return
    except (BaseError, OSError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise StoreError(f"{uri} cannot be used: {said}") from error
    raise Unsafe(
        f"{uri}: this storage ignores conditional puts (If-None-Match), so commits of several writers would "
        "be lost without a word. Use one that honours them (S3, GCS, Azure, MinIO, …), or a folder."
    )
