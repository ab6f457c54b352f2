"""Turns corrections in Label Studio into verdicts on an audit's pairs. Called by `cli/audit` for `audit add`.

All drawn images with a kept pair must be submitted or skipped: images that a person chose to correct would say nothing
about the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pseudoris.audit.audit_folder import RATER_NAME, AuditFolder, HeaderLine, Verdict, VerdictLine, write_answers
from pseudoris.audit.draw_files import DRAWN
from pseudoris.interchange.imports.label_studio import TaskAnnotation, read_regions, read_tasks
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.rle import ious, match_masks


def studio_verdicts(folder: AuditFolder, file: Path, data: bytes) -> bytes:
    """Return the file of verdicts that an export of Label Studio implies about the kept pairs of an audit."""
    if not RATER_NAME.fullmatch(file.stem):
        raise ConfigError(f"{file}: {file.stem!r} is not a rater's name. Call the file by one, such as ana.json.")
    tasks = read_tasks(data, file.name)
    asked = [pair for pair in folder.pairs.to_pylist() if pair["is_kept"]]
    drawn = {pair["image_id"] for pair in asked if pair["role"] == DRAWN}
    if lacking := sorted(drawn - tasks.keys()):
        raise ConfigError(
            f"{file} has no annotation of {len(lacking):,} of the {len(drawn):,} images with pairs of the audit, such "
            f"as {lacking[0]}. Submit or skip these tasks too: images chosen for correction do not stand for the run."
        )
    images = {row["image_id"]: row for row in folder.images.to_pylist() if row["image_id"] in tasks}
    left = {image: _texts_left(row, tasks[image], file.name) for image, row in images.items()}
    lines = []
    for pair in asked:
        if (image := pair["image_id"]) in left:
            verdict, why = _implied(pair, left[image])
            utc = tasks[image].updated_at or ""
            lines.append(VerdictLine(pair=pair["pair_id"], verdict=verdict, comment=f"Label Studio: {why}", utc=utc))
    return write_answers(HeaderLine(draw=folder.draw.digest, rater=file.stem), lines)


def _texts_left(row: Mapping[str, Any], task: TaskAnnotation, name: str) -> dict[str, tuple[str, ...]] | None:
    """Return the texts of what each mask became, by its id, without masks that are gone; None if skipped."""
    if task.was_cancelled:
        return None
    size, masks = (row["height"], row["width"]), row["masks"]
    regions, _ = read_regions(task, size, Counter(), where=f"{name}, image {row['image_id']}")
    overlaps = ious([mask["counts"] for mask in masks], [region.counts for region in regions], size)
    return {masks[mask]["mask_id"]: regions[place].texts for mask, place in match_masks(overlaps).items()}


def _implied(pair: Mapping[str, Any], left: Mapping[str, Collection[str]] | None) -> tuple[Verdict, str]:
    """Return a verdict and why; why a person changed a text is not known, so it counts as untrue."""
    if left is None:
        return "cannot_say", "the task was skipped"
    if len(pair["mask_ids"]) != 1:
        return "cannot_say", "tasks do not show expressions of several masks or none"
    texts = left.get(pair["mask_ids"][0])
    if texts is None:
        return "not_an_object", "the mask was deleted or drawn anew"
    return ("right", "text and mask were left") if pair["text"] in texts else ("untrue", "the text was changed")
