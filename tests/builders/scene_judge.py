"""A simulated judge: the truth of drawn scenes answers an audit, in a file as a person downloads it."""

from __future__ import annotations

from pathlib import Path

from pseudoris.audit.audit_folder import AuditFolder
from pseudoris.audit.verdicts import HeaderLine, VerdictLine
from pseudoris.synthworld.scene_truth import SceneTruth
from pseudoris.workers.masks import rle
from pseudoris.workers.masks.rle import match_masks
from tests.builders.audits import encode_line


def judge_as_truth(audit: AuditFolder, truth: Path, to: Path) -> dict[str, str]:
    """Write a verdict on every pair, of the rater that the file is named after; return them by pair."""
    scenes = SceneTruth.from_json(truth.read_bytes(), str(truth))
    text, digest = encode_line(HeaderLine(draw=audit.draw.digest, rater=to.stem), "")
    verdicts = {}
    # The copies of `examples.photographs` are named by the ids of the scenes' own images.
    scene_of = {row["image_id"]: Path(row["key"]).stem for row in audit.images.select(["image_id", "key"]).to_pylist()}
    for row in audit.pairs.to_pylist():
        known, masks = scenes.of_image(scene_of[row["image_id"]]), audit.masks()[row["image_id"]]
        ious = rle.ious([mask["counts"] for mask in masks.values()], known.masks, known.size)
        found = {list(masks)[mask]: number for mask, number in match_masks(ious).items()}
        verdicts[row["pair_id"]] = _verdict(known, [found.get(mask) for mask in row["mask_ids"]], row["text"])
        line, digest = encode_line(VerdictLine(pair=row["pair_id"], verdict=verdicts[row["pair_id"]]), digest)
        text += line
    to.write_text(text)
    return verdicts


def _verdict(known, targets, text) -> str:
    if None in targets:
        return "not_an_object"
    # As in `pseudoris evaluate`, a text that cannot be read is wrong.
    meant = known.referents(text) or set()
    if meant == set(targets):
        return "right"
    return "several" if meant > set(targets) else "untrue"
