"""Taking away a whole run that was only for a look, such as an estimate's sample."""

from __future__ import annotations

import shutil
from pathlib import Path

from schemas.run import MANIFEST_FOLDER, PLAN_FOLDER, RECEIPTS_FOLDER
from schemas.tables import SCHEMAS
from store.attempts import ATTEMPTS_FOLDER
from store.gc import abandoned_uploads
from store.location import RunLocation
from store.lock import LOCK_FOLDER
from store.storage_errors import storage_errors


def remove_run(location: RunLocation) -> None:
    """Delete every file of the run at `location`; nothing happens where there is none. Nobody may work on it.

    Raises:
        ConfigError: The location cannot be written.
        TransientError: Storage failed.
    """
    if "://" not in location.root:
        with storage_errors("delete", location.root):
            shutil.rmtree(location.root, ignore_errors=not Path(location.root).exists())
        return
    # Receipts first: whatever is left halfway, no reader takes it for a run.
    plans = (PLAN_FOLDER, f"{PLAN_FOLDER}/g0001")
    folders = (RECEIPTS_FOLDER, "", *SCHEMAS, *plans, MANIFEST_FOLDER, ATTEMPTS_FOLDER, LOCK_FOLDER)
    for folder in folders:
        for file in list(location.list(folder)):
            location.delete(f"{folder}/{file.name}" if folder else file.name)
    for upload in abandoned_uploads(location):
        location.abort_upload(upload)
