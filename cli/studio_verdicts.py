"""What corrections in Label Studio say about an audit's pairs, for `pseudoris audit add`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from pseudoris.audit.draw_files import DRAWN
from pseudoris.audit.verdicts import CANNOT_SAY, RATER_NAME, HeaderLine, VerdictLine, write_answers
from pseudoris.schemas.errors import ConfigError
from pseudoris.training.imports import label_studio

if TYPE_CHECKING:
    from pseudoris.audit.audit_folder import AuditFolder

_SIZE = ["image_id", "height", "width"]


def studio_verdicts(folder: AuditFolder, file: Path, data: bytes) -> bytes:
    """Return the verdicts that an export of Label Studio implies about the kept pairs of an audit.

    Only what was drawn counts, and all of it: images that a person chose to correct would say nothing about the others.
    """
    if not RATER_NAME.fullmatch(file.stem):
        raise ConfigError(f"{file}: {file.stem!r} is not a rater's name. Call the file by one, such as ana.json.")
    tasks = label_studio.read_tasks(data, file.name)
    asked = [pair for pair in folder.pairs.to_pylist() if pair["is_kept"]]
    drawn = {pair["image_id"] for pair in asked if pair["role"] == DRAWN}
    if lacking := sorted(drawn - tasks.keys()):
        raise ConfigError(
            f"{file} has no annotation of {len(lacking):,} of the {len(drawn):,} images with pairs of the audit, such "
            f"as {lacking[0]}. Submit or skip these tasks too: images chosen for correction do not stand for the run."
        )
    sizes = {each["image_id"]: (each["height"], each["width"]) for each in folder.images.select(_SIZE).to_pylist()}
    masks = {image: {mask: each["counts"] for mask, each in found.items()} for image, found in folder.masks().items()}
    regions = {
        image: label_studio.read_regions(tasks[image], sizes[image], masks[image], Counter())[0]
        for image in {pair["image_id"] for pair in asked} & tasks.keys()
    }
    lines = []
    for pair in asked:
        if (image := pair["image_id"]) not in regions:
            continue
        first, verdict, why = pair["mask_ids"][0], CANNOT_SAY, "the task was skipped"
        if len(pair["mask_ids"]) > 1:
            why = "tasks do not show expressions of several masks"
        elif tasks[image].results is not None:
            found = masks[image][first], pair["text"], regions[image], sizes[image]
            verdict, why = label_studio.implied_verdict(first, *found)
        said = {"pair": pair["pair_id"], "verdict": verdict, "comment": f"Label Studio: {why}"}
        lines.append(VerdictLine.model_validate({**said, "utc": tasks[image].updated_utc}))
    return write_answers(HeaderLine(draw=folder.draw.digest, rater=file.stem), lines)
