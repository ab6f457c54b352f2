"""The masks of a finished run go onto the images as they are read again, without Ray: those that are still the same."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pseudoris.pipeline.stored_masks import StoredMasks
from pseudoris.schemas.shard import Failure, Shard
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.store.runs.planned_run import Parent
from pseudoris.store.runs.receipts import latest_receipts
from tests.store.builders import annotated, commit_images, empty, make_entries, quarantined, start_run

ENTRIES = make_entries(num_shards=1, per_shard=4)


@pytest.fixture
def stored(tmp_path) -> StoredMasks:
    """Those of a run of two images with masks, one without, and one in quarantine."""
    location = RunLocation.open(str(tmp_path / "parent"))
    kinds = dict(zip([entry.image_id for entry in ENTRIES], (annotated, annotated, empty, quarantined), strict=True))
    commit_images(location, start_run(location, ENTRIES), lambda entry: kinds[entry.image_id](entry))
    write_manifest(location, latest_receipts(location))
    parent = Parent.open(location, RunLocation.open(str(tmp_path / "out")))
    return StoredMasks.pinned(parent, parent.pin())


def test_an_image_gets_its_masks_where_its_bytes_are_those_that_they_were_proposed_for(stored):
    read = [replace(annotated(entry), masks=(), expressions=()) for entry in ENTRIES]
    read[1] = replace(read[1], sha256="f" * 64)
    same, changed, bare, failed = stored.onto(Shard(0, 0, tuple(read))).images
    assert (same.masks, same.failure) == (annotated(ENTRIES[0]).masks, None)
    assert (changed.masks, changed.failure.reason) == ((), "changed")
    assert (bare.masks, bare.failure) == ((), None)
    assert (failed.masks, failed.failure.reason) == ((), "corrupt")


def test_an_image_that_cannot_be_read_now_has_its_own_reason(stored):
    lost = replace(empty(ENTRIES[0]), failure=Failure("read", "missing", "not there"))
    (found,) = stored.onto(Shard(0, 0, (lost,))).images
    assert found == lost
