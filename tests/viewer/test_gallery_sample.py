import logging
from itertools import pairwise
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.ids import image_id
from pseudoris.store.sessions.refiltered_run import RuleChange, refilter
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.viewer import gallery_sample
from pseudoris.viewer.gallery_sample import choose_images, choose_shards, read_summary
from tests.builders.scored_runs import scored_run
from tests.builders.sources import GivenImages
from tests.store.builders import commit, make_entries, start_run


def gallery_from_run(location, load_bytes=lambda shard, key: b"", **options):
    return gallery_sample.gallery_from_run(OpenRun.at(location), GivenImages(load_bytes), **options)


@pytest.fixture
def run(tmp_path):
    """Three shards; each holds an annotated image, one with a lone mask, an empty one and a quarantined one."""
    location = RunLocation.open(str(tmp_path / "a run"))
    header = start_run(location, make_entries(num_shards=3, per_shard=4))
    return location, header


def test_the_gallery_holds_every_image_that_is_not_quarantined_in_plan_order(run):
    location, header = run
    commit(location, header, 0, 1, 2)
    gallery = gallery_from_run(location)
    images = list(gallery.images)

    assert [image.key for image in images] == [f"s{shard}/{n}.png" for shard in range(3) for n in range(3)]
    assert gallery.num_images == len(images)
    assert [len(image.masks) for image in images[:3]] == [2, 1, 0]


def test_images_that_are_asked_for_are_shown_besides_the_sample_in_plan_order(run, caplog):
    location, header = run
    commit(location, header, 0, 1, 2)
    besides = [image_id(key) for key in ("s2/1.png", "s0/2.png", "s0/0.png", "s1/3.png", "of another run.png")]
    with caplog.at_level(logging.WARNING):
        gallery = gallery_from_run(location, sample=1, besides=besides)
        assert [image.key for image in gallery.images] == ["s0/0.png", "s0/2.png", "s2/1.png"]
    assert gallery.num_images == 3
    # The fourth of a shard is quarantined.
    assert "2 of 5 images asked for are not in the run, or are quarantined" in caplog.text


def test_embedded_bytes_are_used_and_others_are_loaded_by_shard_and_key(run):
    location, header = run
    commit(location, header, 0, embed_images=True)
    commit(location, header, 1, embed_images=False)
    loaded = []

    def load_bytes(shard, key):
        loaded.append((shard, key))
        return f"pixels of {key}".encode()

    images = list(gallery_from_run(location, load_bytes).images)

    assert [image.data for image in images] == [f"pixels of s{n}/{at}.png".encode() for n in (0, 1) for at in range(3)]
    assert loaded == [(1, "s1/0.png"), (1, "s1/1.png"), (1, "s1/2.png")]


def test_a_picture_that_is_not_the_annotated_one_any_more_is_left_out_and_logged(run, caplog):
    location, header = run
    commit(location, header, 0, embed_images=False)

    def load_bytes(shard, key):
        return b"another picture" if key == "s0/1.png" else f"pixels of {key}".encode()

    with caplog.at_level(logging.WARNING):
        images = list(gallery_from_run(location, load_bytes).images)

    assert [image.data is None for image in images] == [False, True, False]
    assert "does not show image s0/1.png: the bytes have changed since the annotation" in caplog.text


def test_no_picture_is_tried_once_source_cannot_be_read(run, caplog):
    (location, header), refuse = run, Mock(side_effect=ConfigError("there is no such bucket"))
    commit(location, header, 0, embed_images=False)
    assert [image.data for image in gallery_from_run(location, refuse).images] == [None] * 3
    refuse.assert_called_once_with(0, "s0/0.png")
    assert "No image after s0/0.png is tried: there is no such bucket" in caplog.text


def test_a_refilter_has_the_pairs_digest_of_its_parent_and_a_run_of_other_masks_another(tmp_path):
    out, new, other = (RunLocation.open(str(tmp_path / name)) for name in ("out", "new", "other"))
    scored_run(out)
    refilter(out, new, RuleChange(tau=1.3, lone_masks="drop"))
    scored_run(other, "masks.points_per_side=9")
    found = [read_summary(OpenRun.at(each)) for each in (out, new, other)]
    assert found[0].pairs_digest == found[1].pairs_digest != found[2].pairs_digest
    assert [each.condition for each in found[1].clauses] == ["distinctiveness > 1.3", "never"]


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(0, 40))
def test_a_sample_is_as_large_as_asked_for_and_spread_evenly(counts, sample):
    chosen = choose_images(np.array(counts, np.int64), sample)
    starts = [sum(counts[:shard]) for shard in range(len(counts))]
    positions = [starts[shard] + position for shard, some in chosen.items() for position in some]

    assert all(0 <= position < counts[shard] for shard, some in chosen.items() for position in some)
    assert len(positions) == min(sample, sum(counts))
    assert positions == sorted(set(positions))
    gaps = {later - earlier for earlier, later in pairwise(positions)}
    assert not gaps or max(gaps) - min(gaps) <= 1


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 300))
def test_chosen_shards_stay_within_the_bound_and_span_the_run(rows, max_rows):
    chosen = choose_shards(rows, max_rows)

    assert chosen == sorted(set(chosen))
    assert sum(rows[shard] for shard in chosen) <= max_rows or len(chosen) == 1
    if sum(rows) <= max_rows:
        assert chosen == list(range(len(rows)))
    gaps = {later - earlier for earlier, later in pairwise(chosen)}
    assert not gaps or max(gaps) - min(gaps) <= 1
