"""SOURCEs for tests: tars and Parquet tables of encoded images, and objects in fsspec's memory."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pseudoris.schemas.ids import image_id
from pseudoris.schemas.run_records import PlanEntry
from pseudoris.schemas.shard import Shard
from pseudoris.store.sources.items import SourceItem
from pseudoris.store.tables.image_bytes import PlannedImages


class GivenImages(PlannedImages):
    """Gets the images of a run from a function of shard and key, in place of a SOURCE."""

    def __init__(self, load):
        self._load = load

    def read(self, shard, keys, proven=()):
        for key in keys:
            yield key, self._load(shard, key)


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write `files`, by their path below `folder`, and return it."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def tar_bytes(members: Iterable[tuple[str, bytes]]) -> bytes:
    """Return an uncompressed tar of regular members, in order; a name may repeat."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def parquet_bytes(columns: dict[str, Sequence[Any]] | pa.Table, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns) if isinstance(columns, dict) else columns, buffer, **options)
    return buffer.getvalue()


def plan_of(items: Iterable[SourceItem], *, shard: int = 0) -> list[PlanEntry]:
    return [
        PlanEntry(
            shard=shard,
            position=position,
            image_id=image_id(item.key),
            key=item.key,
            size_bytes=item.size_bytes,
            etag=item.etag,
            mtime_ns=item.mtime_ns,
            offset_bytes=item.offset_bytes,
            row_group=item.row_group,
            row=item.row,
        )
        for position, item in enumerate(items)
    ]


def entries_of(keys: Iterable[str], *, per_shard: int = 4, source: Path | None = None) -> list[PlanEntry]:
    """Return the plan of images by their keys: of files in the folder `source`, of 100 bytes where there is none."""
    found = []
    for at, key in enumerate(keys):
        stored = (100, None, 5)
        if source is not None and (source / key).is_file():
            facts = (source / key).stat()
            stored = (facts.st_size, None, facts.st_mtime_ns)
        found.append(PlanEntry(at // per_shard, at % per_shard, image_id(key), key, *stored))
    return found


def reasons(shard: Shard) -> dict[str, str | None]:
    """Return why each image of a shard is quarantined, by key; None is a sound one."""
    return {image.key: image.failure.reason if image.failure else None for image in shard.images}
