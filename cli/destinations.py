"""Where a command may write pages: never among the tables of the run that they are of."""

from __future__ import annotations

from schemas.errors import ConfigError
from schemas.run import MANIFEST_FOLDER, PLAN_FOLDER, RECEIPTS_FOLDER
from schemas.tables import SCHEMAS
from store.location import RunLocation


def check_apart(run: RunLocation, destination: RunLocation, *, option: str) -> None:
    """Refuse the run's own folders: a glob over a table must find the table alone.

    Raises:
        ConfigError: `destination`, which `option` named, is one of them.
    """
    own = (*SCHEMAS, PLAN_FOLDER, RECEIPTS_FOLDER, MANIFEST_FOLDER)
    if destination.root in (run.root, *(f"{run.root}/{folder}" for folder in own)):
        raise ConfigError(f"{option} {destination.root!r} is a folder of the run itself: name another one")
