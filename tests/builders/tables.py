from collections.abc import Sequence

import pyarrow as pa

from pseudoris.files.location import RunLocation
from pseudoris.store.tables.open_run import OpenRun


def read_table(location: RunLocation, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a table of a run, all shards together."""
    return OpenRun.at(location).table(name, columns)
