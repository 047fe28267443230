"""Does a storage refuse to write what is there already? Where it does not, commits are lost without a word.

Delta Lake's writers agree by putting the next number of a table's log under the condition that nobody has.
Tried here the way it happens: two writers who both know the same version, one after the other.
"""

from uuid import uuid4

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError

from store.errors import StoreError
from store.tables import options_of

TABLE = "_conditional_puts"


class Unsafe(StoreError):
    """The storage loses commits of several writers."""


def check(uri: str) -> None:
    """Return where two writers may share a store.

    Args:
        uri: Of the store; a folder is always safe.

    Raises:
        Unsafe: The storage ignores `If-None-Match`; says what to do.
        StoreError: It cannot be reached.
    """
    if "://" not in uri:
        return
    path, options = f"{uri.rstrip('/')}/{TABLE}", options_of(uri)
    mine = [uuid4().hex, uuid4().hex]
    schema = pa.schema([pa.field("writer", pa.string())])
    try:
        DeltaTable.create(path, schema, mode="ignore", storage_options=options)
        writers = [DeltaTable(path, storage_options=options) for _ in mine]
        for writer, name in zip(writers, mine, strict=True):
            write_deltalake(writer, pa.table({"writer": [name]}, schema), mode="append")
        kept = pa.table(DeltaTable(path, storage_options=options).to_pyarrow_table()).column("writer")
    except (DeltaError, OSError) as error:
        raise StoreError(f"{uri} cannot be used: {error}") from error
    if not set(mine) <= set(kept.to_pylist()):
        raise Unsafe(
            f"{uri}: this storage ignores conditional puts (If-None-Match), so commits of several writers "
            "would be lost without a word. Use one that honours them (S3, GCS, Azure, MinIO, …), or a folder."
        )
