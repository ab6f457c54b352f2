"""Images with their masks and expressions, out of the four tables."""

from __future__ import annotations

import pytest

from pseudoris.store.runs.receipts import latest_receipts
from pseudoris.store.tables.annotations import iter_annotations
from tests.store.builders import commit, make_entries, make_shard, start_run


@pytest.fixture
def run(location):
    commit(location, start_run(location), 0, 2)
    return location


def test_every_image_but_the_quarantined_comes_once_in_plan_order(run):
    entries = make_entries()
    written = [image for at in (0, 8) for image in make_shard(entries[at : at + 4]).images if image.failure is None]
    read = list(iter_annotations(run, latest_receipts(run)))
    assert [(image.image_id, image.key, image.sha256) for image in read] == [
        (image.image_id, image.key, image.sha256) for image in written
    ]
    for image, due in zip(read, written, strict=True):
        assert [(mask.mask_id, mask.rle_counts, mask.box_xyxy_px, mask.index) for mask in image.masks] == [
            (mask.mask_id, mask.rle_counts, mask.box_xyxy_px, mask.index) for mask in due.masks
        ]
        found = [(mask.mask_id, each.text, each.kept) for mask in image.masks for each in mask.expressions]
        assert found == [(each.target_mask_ids[0], each.text, each.kept) for each in due.expressions]


def test_kept_only_leaves_masks_without_a_kept_expression(run):
    images = list(iter_annotations(run, latest_receipts(run), kept_only=True))
    assert all(each.kept for image in images for mask in image.masks for each in mask.expressions)
    assert sum(len(image.masks) for image in images) == sum(
        len(image.masks) for image in iter_annotations(run, latest_receipts(run))
    )


def test_draws_and_scores_are_those_of_the_tables(run):
    image = next(image for image in iter_annotations(run, latest_receipts(run)) if len(image.masks) == 2)
    first = image.masks[0].expressions[0]
    assert (first.source, first.decoder, first.crop, first.count, first.log_prob) == (
        "model",
        "beam",
        "masked",
        2,
        -3.5,
    )
    assert (first.distinctiveness, first.rival_mask_id) == (1.1, image.masks[1].mask_id)
