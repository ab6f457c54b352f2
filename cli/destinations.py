"""Where a command may write pages: never among the tables of the run that they are of."""

from __future__ import annotations

from schemas.errors import ConfigError
from schemas.run import MANIFEST_FOLDER, PLAN_FOLDER, RECEIPTS_FOLDER
from schemas.tables import SCHEMAS
from store.location import RunLocation


def check_apart(run: RunLocation, destination: RunLocation, *, option: str) -> None:
    """Refuse the run's own folders, and what lies in them: readers of a table take its folder with all below.

    Raises:
        ConfigError: `destination`, which `option` named, is one of them or lies in one.
    """
    own = (*SCHEMAS, PLAN_FOLDER, RECEIPTS_FOLDER, MANIFEST_FOLDER)
    if (destination.holds(run) and run.holds(destination)) or any(run.holds(destination, folder) for folder in own):
        raise ConfigError(f"{option} {destination.root!r} is a folder of the run itself, or in one: name another one")
