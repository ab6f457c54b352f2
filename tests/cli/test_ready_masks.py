"""`pseudoris annotate` over masks that stand ready: captions and filter with the real models, no SAM, on a real Ray."""

from __future__ import annotations

import json

import pyarrow.dataset as ds
import pytest

from tests.builders.command import OPTIONS, pseudoris

pytestmark = [pytest.mark.ray, pytest.mark.long]
# Whoever touched SAM's weights would fail.
READY = ("--set", "masks.engine=ready", "--set", "masks.weights.uri=/nowhere/sam.pth")


def table(out, name) -> list[dict]:
    return ds.dataset(out / name).to_table().to_pylist()


@pytest.fixture(scope="module")
def ready_run(tiny_run, tmp_path_factory):
    """The masks of a run with SAM as SA-1B JSON, and a run over the same images with those; the last image's lack."""
    folder, out = (tmp_path_factory.mktemp("ready") / name for name in ("masks", "out"))
    images = [row for row in table(tiny_run.out, "images") if row["status"] == "annotated"]
    masks = table(tiny_run.out, "masks")
    for image in images[:-1]:
        rows = [
            {name: row[name] for name in ("segmentation", "predicted_iou", "stability_score")}
            for row in masks
            if row["image_id"] == image["image_id"]
        ]
        size = {"height": image["height"], "width": image["width"]}
        path = (folder / image["key"]).with_suffix(".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"image": size, "annotations": rows}))
    options = (*OPTIONS, *READY, "--set", f"masks.options.folder={folder}")
    printed = pseudoris("annotate", str(tiny_run.source), str(out), *options)
    assert printed.returncode == 0, printed.stderr
    return out, folder, images


def test_the_masks_are_those_of_the_files_and_no_sam_was_loaded(tiny_run, ready_run):
    out, _, images = ready_run
    lacking = images[-1]["image_id"]

    def shapes(run):
        names = ("image_id", "box_xyxy_px", "area_px", "predicted_iou", "stability_score")
        rows = [row for row in table(run, "masks") if row["image_id"] != lacking]
        return sorted([row["segmentation"]["counts"], *(row[name] for name in names)] for row in rows)

    assert shapes(out)
    assert shapes(out) == shapes(tiny_run.out)


def test_an_image_without_masks_is_quarantined_for_it(ready_run):
    out, _, images = ready_run
    reasons = {row["image_id"]: (row["stage"], row["reason"]) for row in table(out, "failures")}
    assert reasons[images[-1]["image_id"]] == ("propose", "annotation_missing")
