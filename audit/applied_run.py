"""An audit applied to another run, such as a refilter of the drawn one: which pairs are the same, and kept there."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pseudoris.audit.audit_folder import AuditFolder
from pseudoris.audit.draw_files import keeps_no_others, pair_id
from pseudoris.audit.judged_pairs import JudgedPairs
from pseudoris.audit.population import OnShard
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.run_records import Receipt
from pseudoris.schemas.tables import EXPRESSIONS, IMAGES, MASKS, STATUS_QUARANTINED
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.manifest import cached_receipts
from pseudoris.store.tables.committed_tables import read_table
from pseudoris.store.tables.keep_rule import stated_rule


@dataclass(frozen=True, slots=True)
class AppliedRun:
    """Another run that an audit speaks about.

    Attributes:
        location: Its folder.
        num_asked: Pairs of the audit.
        num_same: Of these, those that the run has as well: same image bytes, same masks, same text.
        num_kept: Of these, those that it keeps.
        has_same_pairs: Whether the run has as many images, masks and pairs as the drawn one, and all of the audit's:
            then the sample stands for all of its pairs.
        keeps_no_others: Whether it is known to keep nothing that the drawn run does not keep.
        num_masks: Its masks.
        num_masks_with_kept: Of these, those with a kept expression.
        kept: What it keeps of the same pairs, and of how many kept ones of the mask, by pair id.
    """

    location: str
    num_asked: int
    num_same: int
    num_kept: int
    has_same_pairs: bool
    keeps_no_others: bool
    num_masks: int
    num_masks_with_kept: int
    kept: Mapping[str, tuple[bool, int]] = field(repr=False)

    def judged(self, judged: JudgedPairs) -> JudgedPairs:
        """Return the verdicts as this run sees them: its kept flags, and no weight for pairs that it does not have."""
        found = [self.kept.get(pair, (False, 0)) for pair in judged.ids]
        is_same = np.array([pair in self.kept for pair in judged.ids], np.bool_)
        return replace(
            judged,
            is_kept=np.array([is_kept for is_kept, _ in found], np.bool_),
            num_kept_of_mask=np.array([count for _, count in found], np.int64),
            counts=np.where(is_same[:, None], judged.counts, 0),
        )


@dataclass(slots=True)
class _Totals:
    images: int = 0
    masks: int = 0
    pairs: int = 0
    masks_with_kept: int = 0


def apply_to(location: RunLocation, audit: AuditFolder, on_shard: OnShard = lambda done, total: None) -> AppliedRun:
    """Return what the run at `location` keeps of an audit's pairs. Reads its tables once.

    Raises:
        ConfigError: There is no run, it shares no pair with the audit, or a part is missing.
    """
    header = require_header(location)
    totals, kept = _Totals(), dict[str, tuple[bool, int]]()
    known = dict(zip(audit.images["image_id"].to_pylist(), audit.images["sha256"].to_pylist(), strict=True))
    masks = audit.masks()
    for number, receipt in enumerate(cached_receipts(location), start=1):
        _read_shard(location, receipt, known, masks, totals, kept)
        on_shard(number, header.num_shards)
    rows = audit.pairs["pair_id"].to_pylist()
    same = {pair: kept[pair] for pair in rows if pair in kept}
    if not same:
        raise ConfigError(
            f"{location.root} has none of the {len(rows):,} pairs of the audit at {audit.path}: it shows other images, "
            f"or has other masks. The audit was drawn from {audit.draw.run.location}"
        )
    before = audit.draw.population
    has_same = (totals.images, totals.masks, totals.pairs) == (before.images, before.masks, before.pairs)
    return AppliedRun(
        location=location.root,
        num_asked=len(rows),
        num_same=len(same),
        num_kept=sum(is_kept for is_kept, _ in same.values()),
        has_same_pairs=has_same and len(same) == len(rows),
        keeps_no_others=keeps_no_others(header, stated_rule(header), audit.draw.run),
        num_masks=totals.masks,
        num_masks_with_kept=totals.masks_with_kept,
        kept=same,
    )


def _read_shard(
    location: RunLocation,
    receipt: Receipt,
    known: Mapping[str, str],
    masks: Mapping[str, Mapping[str, Mapping[str, Any]]],
    totals: _Totals,
    kept: dict[str, tuple[bool, int]],
) -> None:
    """Add a shard to `totals`, and to `kept` its pairs of known images and masks; `known` has digests of images."""
    images = read_table(location, IMAGES, ("image_id", "status", "sha256"), [receipt])
    images = images.filter(pc.not_equal(images["status"], STATUS_QUARANTINED))
    digests = zip(images["image_id"].to_pylist(), images["sha256"].to_pylist(), strict=True)
    same_images = sorted(image for image, sha256 in digests if known.get(image) == sha256)
    table = read_table(location, MASKS, ("image_id", "mask_id", "segmentation"), [receipt])
    same_masks = set()
    for row in table.filter(pc.is_in(table["image_id"], value_set=pa.array(same_images, pa.string()))).to_pylist():
        mine = masks[row["image_id"]].get(row["mask_id"])
        if mine is not None and mine["counts"] == row["segmentation"]["counts"]:
            same_masks.add(row["mask_id"])
    flags: defaultdict[tuple[tuple[str, ...], str], bool] = defaultdict(bool)
    for row in read_table(location, EXPRESSIONS, ("target_mask_ids", "text", "kept"), [receipt]).to_pylist():
        if row["target_mask_ids"]:
            flags[tuple(sorted(row["target_mask_ids"])), row["text"]] |= row["kept"]
    of_mask = Counter(targets[0] for (targets, _), is_kept in flags.items() if is_kept and len(targets) == 1)
    totals.images += images.num_rows
    totals.masks += table.num_rows
    totals.pairs += len(flags)
    totals.masks_with_kept += len(of_mask)
    for (targets, text), is_kept in flags.items():
        if set(targets) <= same_masks:
            count = of_mask[targets[0]] if len(targets) == 1 else 0
            kept[pair_id(targets[0].rpartition("-")[0], targets, text)] = (is_kept, count)
