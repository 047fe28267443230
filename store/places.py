"""Where things are kept: one folder for all that this node keeps, and the store, which nodes may share."""

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
SCHEME = "://"


def home() -> Path:
    """Return the folder of all that is kept on disk: `GLASSHOUSE_HOME`, else `var/` in the checkout."""
    return Path(os.environ.get("GLASSHOUSE_HOME") or CHECKOUT / "var").absolute()


def spools() -> Path:
    """Return the folder of this node's spools; on a local disk."""
    return home() / "spool"


def store() -> str:
    """Return where the tables are: `GLASSHOUSE_STORE`, a path or a URL (`s3://…`), else in `home()`."""
    named = os.environ.get("GLASSHOUSE_STORE", "")
    return named if SCHEME in named else str(Path(named or home() / "store").absolute())
