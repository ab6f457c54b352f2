"""Checks rows of a shard's tables; pure functions return problems. Called by `checks`; `pipeline` takes `Problem`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import pyarrow as pa

from pseudoris.primitives.run_lengths import mask_faults
from pseudoris.schemas.run_records import PlanEntry, ShardCounts
from pseudoris.schemas.tables import (
    EXPRESSIONS,
    FAILURE_REASONS,
    FAILURES,
    IMAGES,
    MASKS,
    STATUS_ANNOTATED,
    STATUS_EMPTY,
    STATUS_QUARANTINED,
)
from pseudoris.store.tables.shard_tables import table_counts

# The report shows at most this many examples of one problem per shard: a few are enough to show a pattern.
_MAX_EXAMPLES: Final = 5
_STATUSES: Final = (STATUS_ANNOTATED, STATUS_EMPTY, STATUS_QUARANTINED)

Tables = Mapping[str, pa.Table]
# A finding is the kind of a problem, and one sentence for each row that has the problem.
Finding = tuple[str, Iterable[str]]


@dataclass(frozen=True, slots=True)
class Problem:
    """A violated rule.

    Attributes:
        shard: Number of the shard; None if it concerns the whole run.
        what: Stable name of the kind of problem, such as `mask_area`.
        detail: What was found and what was expected, with the id of the row.
    """

    shard: int | None
    what: str
    detail: str


def examples(shard: int | None, what: str, details: Iterable[str]) -> list[Problem]:
    """Return a problem for each of the first few details, and one that counts the rest."""
    remaining = iter(details)
    problems = [Problem(shard, what, detail) for detail in islice(remaining, _MAX_EXAMPLES)]
    if num_more := sum(1 for _ in remaining):
        problems.append(Problem(shard, what, f"and {num_more} more"))
    return problems


def id_problems(images: pa.Table, planned: Sequence[PlanEntry]) -> Iterator[Finding]:
    """Check that ids and keys are exactly the plan's, in its order."""
    got = list(zip(images["image_id"].to_pylist(), images["key"].to_pylist(), strict=True))
    due = [(entry.image_id, entry.key) for entry in planned]
    if got == due:
        return
    lost, extra = Counter(due) - Counter(got), Counter(got) - Counter(due)
    details = [f"image {image} ({key}) is planned, but missing" for image, key in lost.elements()]
    details += [f"image {image} ({key}) is not planned, or is repeated" for image, key in extra.elements()]
    yield "ids", (details or ["the images are not in the order of the plan"])


def image_problems(tables: Tables) -> Iterator[Finding]:
    """Check each image's status against the masks and failures tables, and that its fields are set."""
    images = tables[IMAGES].to_pylist()
    with_masks = set(tables[MASKS]["image_id"].to_pylist())
    failed = Counter(tables[FAILURES]["image_id"].to_pylist())
    status, fields = [], []
    for row in images:
        image = row["image_id"]
        due = STATUS_QUARANTINED if failed[image] else STATUS_ANNOTATED if image in with_masks else STATUS_EMPTY
        if row["status"] != due or (failed[image] and image in with_masks):
            status.append(
                f"image {image} has status {row['status']!r}, {failed[image]} failures and "
                f"{'masks' if image in with_masks else 'no mask'}; allowed are {', '.join(_STATUSES)}"
            )
        if due != STATUS_QUARANTINED and not (row["height"] and row["width"] and row["sha256"]):
            fields.append(f"image {image} was decoded, but has no height, width or sha256")
        if row["bytes"] is not None and hashlib.sha256(row["bytes"]).hexdigest() != row["sha256"]:
            fields.append(f"image {image}: the embedded bytes have another sha256 than the row says")
    yield "image_status", status
    yield "image_fields", fields


def failure_problems(tables: Tables) -> Iterator[Finding]:
    """Check that failures name images of the shard, once each, with a known reason."""
    known = set(tables[IMAGES]["image_id"].to_pylist())
    rows = tables[FAILURES].to_pylist()
    counts = Counter(row["image_id"] for row in rows)
    strange = [(image, n) for image, n in counts.items() if n > 1 or image not in known]
    unlike = f"failures, or is none of the shard's {len(known)} images"
    yield "failure_image", (f"image {image} has {n} {unlike}" for image, n in strange)
    unknown = (row for row in rows if row["reason"] not in FAILURE_REASONS)
    yield "failure_reason", (f"image {row['image_id']}: unknown reason {row['reason']!r}" for row in unknown)


def mask_problems(tables: Tables) -> Iterator[Finding]:
    """Check every mask: its image, its id, its decoded size, its area and its tight box."""
    sizes = {
        row["image_id"]: (row["height"], row["width"])
        for row in tables[IMAGES].select(["image_id", "height", "width"]).to_pylist()
    }
    found: dict[str, list[str]] = {"mask_id": [], "mask_image": [], "mask_rle": [], "mask_area": [], "mask_box": []}
    seen: set[str] = set()
    for row in tables[MASKS].to_pylist():
        mask, image = row["mask_id"], row["image_id"]
        stem, _, index = mask.rpartition("-")
        if mask in seen or stem != image or not index.isdecimal():
            found["mask_id"].append(f"mask {mask} of image {image} is repeated or not named after its image")
        seen.add(mask)
        if image not in sizes:
            found["mask_image"].append(f"mask {mask} names image {image}, which is not in the shard")
            continue
        counts, claimed = row["segmentation"]["counts"], row["segmentation"]["size"]
        area, box = row["area_px"], row["box_xyxy_px"]
        for what, detail in mask_faults(sizes[image], claimed, counts, area_px=area, box_xyxy_px=box):
            found[what].append(f"mask {mask} {detail}")
    yield from found.items()


def order_problems(tables: Tables) -> Iterator[Finding]:
    """Check that masks are ordered by image and index, and expressions by image."""
    position = {image: n for n, image in enumerate(tables[IMAGES]["image_id"].to_pylist())}
    for name, columns in ((MASKS, ["image_id", "mask_id"]), (EXPRESSIONS, ["image_id"])):
        rows = tables[name].select(columns).to_pylist()
        indices = (row.get("mask_id", "").rpartition("-")[2] for row in rows)
        keys = [
            (position.get(row["image_id"], -1), int(index) if index.isdecimal() else -1)
            for row, index in zip(rows, indices, strict=True)
        ]
        if keys != sorted(keys):
            yield "order", [f"the rows of {name} are not in the documented order"]


TABLE_CHECKS: Final = (image_problems, failure_problems, mask_problems, order_problems)


def count_problems(tables: Tables, counts: ShardCounts) -> Iterator[Finding]:
    """Check the receipt's counts against the tables."""
    got, due = table_counts(tables), counts.model_dump()
    wrong = (name for name in due if got[name] != due[name])
    yield "counts", (f"{name}: the receipt says {due[name]}, the tables {got[name]}" for name in wrong)
