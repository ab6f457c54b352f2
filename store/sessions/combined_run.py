"""`combine` makes one run of several, or of one, without models or images. Called by `cli`, `pseudoris` and users.

Every value stays, bit for bit; of several runs keys and ids are new. A run of one parent, of which nothing changes,
has its parts. The header names the parents, with their root digests, and holds the settings of each.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pseudoris.files.key_order import key_prefix
from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.ids import IMAGE_ID_HEX_DIGITS, image_id
from pseudoris.schemas.run_records import Identity, PlanEntry, RunHeader, ShardCounts
from pseudoris.schemas.tables import EXPRESSIONS, IMAGES
from pseudoris.store.runs.combination import Combination
from pseudoris.store.runs.copied_pictures import Unique
from pseudoris.store.runs.held_out_pictures import HoldOut
from pseudoris.store.runs.manifest import cached_receipts
from pseudoris.store.runs.parents import DerivedShard
from pseudoris.store.runs.plan import read_shard_plan
from pseudoris.store.runs.planned_run import ACCEPTED, RunRequest, package_versions
from pseudoris.store.sessions.thread_executor import DEFAULT_THREADS, OnProgress, WrittenRun, derive_run
from pseudoris.store.tables.shard_tables import table_bytes, table_counts, texts_in_splits

logger = logging.getLogger(__name__)

# The columns that name images or masks.
_IDS: Final = ("image_id", "mask_id", "target_mask_ids", "rival_mask_id", "grounding_rival")
# These packages write the tables; what computed them is in the identity of each parent.
_WRITERS: Final = ("pseudoris", "pyarrow")


@dataclass(frozen=True)
class CombineSummary(WrittenRun):
    """The result of `combine`; the new run is complete.

    Attributes:
        out: Path or url of the new run's folder.
        images: Images by the name of the run that they are from.
        notes: What the user should know, a sentence each.
    """

    out: str
    images: Mapping[str, int]
    notes: tuple[str, ...]

    @property
    def num_left_out(self) -> int:
        """Images that are copies of others, or alike to images of two splits, and were not taken."""
        return self.header.left_out.rows if self.header.left_out else 0

    @property
    def splits(self) -> Mapping[str, int]:
        """Images by split, "" for those in none; empty if the run has no splits."""
        return self.header.splits.images if self.header.splits else {}


def combine(
    runs: Sequence[tuple[str, RunLocation]],
    target: RunLocation,
    *,
    is_partial: bool = False,
    unique: Unique | None = None,
    hold_out: HoldOut | None = None,
    moved: str | Mapping[str, str] | None = None,
    num_threads: int = DEFAULT_THREADS,
    allow_mixed: bool = False,
    is_repair: bool = False,
    on_progress: OnProgress = lambda done, total: None,
    on_wait: Callable[[str], None] = logger.warning,
) -> CombineSummary:
    """Write the images of all `runs`, by name and place, as one run to `target`; or continue that.

    A name "" leaves the keys as they are. If it is killed, the same call continues; two processes may combine at once.
    With `is_partial` what is committed of an unfinished run is taken. `unique` leaves out copies of earlier pictures,
    `hold_out` draws splits; `moved` says by name where the pictures are now that they read. `on_wait` is told who
    holds the new run, and of an edited data card.

    Raises:
        ConfigError: A run is unfinished, damaged, of PPT's pairs, or is in `target` or holds it; two runs of one name
            share a key; or the target holds another run, or one of other parents.
        TransientError: Storage failed; the same call continues.
    """
    source = Combination.open(runs, target, is_partial=is_partial, unique=unique, hold_out=hold_out, source=moved)
    planned, written = derive_run(
        target,
        source,
        _request(source, allow_mixed=allow_mixed, is_repair=is_repair),
        partial(_rewritten, target),
        num_workers=num_threads,
        on_progress=on_progress,
        on_wait=on_wait,
    )
    notes = [f"{ACCEPTED}{line}" for line in planned.mixed]
    if source.listed is None and (num_unknown := source.chosen[0].num_unknown):
        notes.append(
            f"near copies unknown of {num_unknown:,} that cannot be read where the runs found them: --source names "
            "another place, --plugin a decoder"
        )
    if ungrouped := source.chosen[0].ungrouped:
        notes.append(f"--group: {len(ungrouped):,} of its keys name no image, such as {ungrouped[0]!r}")
    notes += [f"{place} has changed since: the new run has it as it was" for place in source.changed()]
    return CombineSummary(**vars(written), out=target.root, images=_images(planned.header, target), notes=tuple(notes))


def _request(source: Combination, *, allow_mixed: bool, is_repair: bool) -> RunRequest:
    headers = [run for each in source.taken for run in each.parent.header.runs]
    for each in source.taken:
        if any("recipe" in header.identity.method for header in (each.parent.header, *each.parent.header.runs)):
            raise ConfigError(
                f"{each.parent.location.root} holds pairs of PPT, of which rows of one text belong together: combine "
                "the runs that it was made from, and make the pairs anew"
            )
    config = headers[0].config
    is_embedded = any(each.parent.header.config.shards.embed_images for each in source.taken)
    shards = config.shards.model_copy(update={"embed_images": is_embedded})
    placement = type(config.placement)(allow_mixed=allow_mixed, repair=is_repair, storage=config.placement.storage)
    config = config.model_copy(update={"shards": shards, "placement": placement})
    versions = package_versions(_WRITERS)
    identity = Identity(method=source.method, weights={}, device_kind="none", versions=versions)
    return RunRequest("combine", ", ".join(dict.fromkeys(each.source for each in headers)), identity, config)


def _rewritten(
    target: RunLocation, header: RunHeader, shard: DerivedShard, contents: dict[str, bytes]
) -> tuple[Mapping[str, bytes], ShardCounts]:
    entries = read_shard_plan(target, header, shard.number)
    if not shard.name and shard.splits is None and len(entries) == shard.receipt.counts.images:
        return contents, shard.receipt.counts
    tables = shard.tables(contents)
    new = _renamed(tables, entries, shard)
    if all(new[name].equals(table) for name, table in tables.items()):
        return contents, shard.receipt.counts
    return {name: table_bytes(table) for name, table in new.items()}, ShardCounts(**table_counts(new))


def _renamed(tables: Mapping[str, pa.Table], entries: Sequence[PlanEntry], shard: DerivedShard) -> dict[str, pa.Table]:
    """Return the tables of the images of `entries`, with their new keys and ids, and the splits that are given."""
    prefix, planned = key_prefix(shard.name), {each.image_id for each in entries}
    images = tables[IMAGES]
    ids = [image_id(f"{prefix}{key}") for key in images["key"].to_pylist()]
    is_whole = planned.issuperset(ids)
    if not is_whole:
        images = images.filter(pa.array([each in planned for each in ids], pa.bool_()))
    if images.num_rows != len(entries):
        raise ConfigError(f"{shard} has {images.num_rows} images, its plan {len(entries)}: run `pseudoris verify`")
    old, new = images["image_id"].combine_chunks(), pa.array(filter(planned.__contains__, ids), pa.string())
    if shard.splits is not None:
        at, splits = images.schema.get_field_index("split"), [shard.splits.get(each) for each in old.to_pylist()]
        images = images.set_column(at, images.schema.field(at), pa.array(splits, pa.string()))
    found = {}
    for name, table in {**tables, IMAGES: images}.items():
        if not is_whole and name != IMAGES:
            table = table.filter(pc.is_in(table["image_id"], value_set=old))
        if shard.splits is not None and name == EXPRESSIONS:
            table = texts_in_splits(table, images)
        named = [column for column in _IDS if column in table.column_names]
        columns = {column: _new_ids(table[column].combine_chunks(), old, new, str(shard)) for column in named}
        if name == IMAGES:
            # A picture is named as the keys are: two runs may have tiles of different pictures of one name.
            columns |= {each: pc.binary_join_element_wise(prefix, table[each], "") for each in ("key", "picture")}
        held = [columns.get(field.name, table[field.name]) for field in table.schema]
        found[name] = pa.table(held, schema=table.schema)
    return found


def _new_ids(ids: pa.Array, old: pa.Array, new: pa.Array, where: str) -> pa.Array:
    """Return new ids of images, of masks, `<image id>-0007`, or of lists of these; null stays null."""
    if pa.types.is_list(ids.type):
        values = _new_ids(ids.flatten(), old, new, where)
        ends = pa.array(np.concatenate([[0], np.cumsum(pc.list_value_length(ids).to_numpy())]), pa.int32())
        return pa.ListArray.from_arrays(ends, values, type=ids.type)
    images = pc.utf8_slice_codeunits(ids, 0, IMAGE_ID_HEX_DIGITS)
    found = new.take(pc.index_in(images, value_set=old, skip_nulls=True))
    if found.null_count != ids.null_count:
        raise ConfigError(f"{where} has rows of no image: run `pseudoris verify`")
    return pc.binary_join_element_wise(found, pc.utf8_slice_codeunits(ids, IMAGE_ID_HEX_DIGITS), "")


def _images(header: RunHeader, location: RunLocation) -> dict[str, int]:
    # A run of which every picture is a copy has its row too.
    found = dict.fromkeys((run.name for run in header.runs), 0)
    for receipt in cached_receipts(location, header=header):
        found[header.of_shard(receipt.shard).name] += receipt.counts.images
    return found
