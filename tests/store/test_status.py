from __future__ import annotations

import pytest

from schemas.errors import ConfigError
from store.manifest import write_manifest
from store.status import run_status
from tests.store.builders import commit, start_run


def test_a_run_without_commits_has_its_plan_and_nothing_done(location):
    start_run(location)
    status = run_status(location)
    assert (status.num_shards, status.num_done, status.num_images, status.num_images_done) == (3, 0, 12, 0)
    assert not status.is_complete


@pytest.mark.parametrize("has_manifest", [True, False])
def test_the_receipts_are_summed(location, has_manifest):
    receipts = commit(location, start_run(location), 0, 2)
    if has_manifest:
        write_manifest(location)
    status = run_status(location)
    assert (status.source, status.num_done, status.num_images_done) == ("images/", 2, 8)
    assert (status.annotated, status.empty, status.quarantined) == (4, 2, 2)
    assert (status.masks, status.expressions, status.samples, status.kept) == (6, 12, 24, 8)
    assert status.reasons == {"corrupt": 2}
    assert status.seconds == {"propose": 3.0, "caption": 4.0}
    assert status.size_bytes == sum(part.size_bytes for each in receipts for part in each.parts.values())
    assert not status.is_complete


def test_a_later_generation_replaces_the_figures_of_the_earlier_one(location):
    header = start_run(location)
    commit(location, header, 0, 1, 2)
    commit(location, header, 1, generation=1)
    status = run_status(location)
    assert status.is_complete
    assert (status.num_done, status.num_images_done) == (3, 12)


def test_where_no_run_is_the_user_is_told_how_to_start_one(location):
    with pytest.raises(ConfigError, match=r"there is no run at .*pseudoris annotate"):
        run_status(location)
