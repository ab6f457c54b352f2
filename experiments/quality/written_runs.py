"""A run written from annotated scenes: the tables that students read, with texts and masks that an experiment chose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.dataset_inputs import start_run
from experiments.quality.scene_runs import IMAGES_FOLDER
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.ids import image_id, mask_id, sha256_hex
from pseudoris.schemas.run_records import PlanEntry
from pseudoris.schemas.shard import ExpressionRecord, Shard, ShardImage
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.commit import Provenance, commit_shard
from pseudoris.store.runs.plan import read_shard_plan

_PER_SHARD = 20


def write_run(folder: Path, out: Path, images: Sequence[ShardImage]) -> str:
    """Write annotated scenes, in the order of `folder/images/scene-00000.png` and on, as a finished run; return it.

    Masks and expressions are taken as they are; ids become those of the files.
    """
    location = RunLocation.open(str(out))
    names = [f"scene-{number:05d}.png" for number in range(len(images))]
    entries = [
        PlanEntry(at // _PER_SHARD, at % _PER_SHARD, image_id(name), name, 100, None, 5)
        for at, name in enumerate(names)
    ]
    header = start_run(location, str(folder / IMAGES_FOLDER), entries, load_config("tiny"))
    named = dict(zip(names, images, strict=True))
    for number in range(header.num_shards):
        rows = read_shard_plan(location, header, number)
        shard = Shard(number, 0, tuple(_as_file(named[row.key], row, folder / IMAGES_FOLDER) for row in rows), {}, ())
        provenance = Provenance(header_sha256=header.sha256)
        ids = [row.image_id for row in rows]
        commit_shard(location, shard, planned_ids=ids, embed_images=False, provenance=provenance)
    return str(out)


def _as_file(image: ShardImage, entry: PlanEntry, images: Path) -> ShardImage:
    """The same annotation of a file of the plan."""
    ids = {mask.mask_id: mask_id(entry.image_id, at) for at, mask in enumerate(image.masks)}

    def moved(each: ExpressionRecord) -> ExpressionRecord:
        rival = None if each.rival_mask_id is None else ids.get(each.rival_mask_id)
        return replace(each, target_mask_ids=tuple(ids[old] for old in each.target_mask_ids), rival_mask_id=rival)

    return replace(
        image,
        position=entry.position,
        image_id=entry.image_id,
        key=entry.key,
        sha256=sha256_hex((images / entry.key).read_bytes()),
        masks=tuple(replace(mask, mask_id=ids[mask.mask_id]) for mask in image.masks),
        expressions=tuple(map(moved, image.expressions)),
    )
