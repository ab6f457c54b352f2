"""The figures equal those that a plain reading of the whole tables gives."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.schemas.tables import EXPRESSIONS, IMAGES, MASKS, STATUS_QUARANTINED
from pseudoris.store.location import RunLocation
from pseudoris.store.reports.statistics import Distribution, TopTexts, run_statistics
from tests.builders.scored_runs import begin, commit_scored, scored_run
from tests.builders.tables import read_table
from tests.store.builders import start_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    location = RunLocation.open(str(tmp_path_factory.mktemp("figures") / "run"))
    scored_run(location, num_shards=6, has_humans=True)
    return location


@pytest.fixture(scope="module")
def rows(run):
    return read_table(run, EXPRESSIONS).to_pylist()


def test_kept_a_mask_counts_masks_without_any(run, rows):
    found = run_statistics(run).kept_a_mask
    kept = Counter(mask for row in rows if row["kept"] for mask in row["target_mask_ids"])
    per_mask = [kept[mask] for mask in read_table(run, MASKS)["mask_id"].to_pylist()]
    assert found.num_values == len(per_mask)
    assert found.mean == pytest.approx(np.mean(per_mask))
    assert found.quantile(1) == max(per_mask)


def test_masks_an_image_count_images_without_any(run):
    found = run_statistics(run).masks_an_image
    masks = Counter(read_table(run, MASKS)["image_id"].to_pylist())
    images = read_table(run, IMAGES).to_pylist()
    per_image = [masks[row["image_id"]] for row in images if row["status"] != STATUS_QUARANTINED]
    assert 0 in per_image
    assert found.num_values == len(per_image)
    assert found.mean == pytest.approx(np.mean(per_image))


@pytest.mark.parametrize("name", ["uniqueness", "correctness", "distinctiveness", "log_prob", "count"])
def test_scores_are_of_all_candidates_that_have_them(run, rows, name):
    found = run_statistics(run).scores[name]
    values = [row[name] for row in rows if row[name] is not None]
    assert found.num_values == len(values)
    assert found.mean == pytest.approx(np.mean(values))
    for share in (0.05, 0.37, 0.95):
        assert found.quantile(share) == pytest.approx(np.quantile(values, share, method="inverted_cdf"), rel=5.1e-4)


@pytest.mark.parametrize("name", ["source", "decoder", "crop"])
def test_the_share_kept_is_told_by_source_and_of_every_draw_by_decoder_and_crop(run, rows, name):
    found = run_statistics(run).groups[name]
    values = [
        (value, row["kept"])
        for row in rows
        for value in ([row["source"]] if name == "source" else [draw[name] for draw in row["samples"]])
    ]
    counted = Counter(value for value, _ in values)
    kept = Counter(value for value, is_kept in values if is_kept)
    assert {value: (each.counted, each.kept) for value, each in found.items()} == {
        value: (counted[value], kept[value]) for value in counted
    }
    assert list(found) == sorted(counted, key=lambda value: (-counted[value], value))
    assert all(each.share == each.kept / each.counted for each in found.values())


def test_the_most_frequent_expressions_are_kept_ones(run, rows):
    found = run_statistics(run, num_top=3)
    kept = Counter(row["text"] for row in rows if row["kept"])
    assert list(found.top) == sorted(kept.items(), key=lambda item: (-item[1], item[0]))[:3]
    assert found.top_error == 0


def test_a_growing_run_and_one_without_a_commit_have_figures(tmp_path):
    location = RunLocation.open(str(tmp_path / "run"))
    commit_scored(location, begin(location), 2)
    assert (run_statistics(location).totals.images, run_statistics(location).num_planned_images) == (5, 20)
    empty = RunLocation.open(str(tmp_path / "empty"))
    start_run(empty)
    assert run_statistics(empty).masks_an_image.mean is None


WORDS = st.lists(st.sampled_from("abcdefghij"), max_size=60)


@given(
    parts=st.lists(st.lists(st.floats(-1e9, 1e9).filter(lambda x: x == 0 or abs(x) > 1e-9), max_size=20), max_size=5),
    share=st.floats(0, 1),
)
def test_a_quantile_is_numpys_up_to_four_digits(parts, share):
    distribution = Distribution()
    for part in parts:
        distribution.add(part)
    values = [value for part in parts for value in part]
    assert distribution.num_values == len(values)
    if not values:
        assert distribution.quantile(share) is None
        assert distribution.mean is None
        return
    due = np.quantile(values, share, method="inverted_cdf")
    got = distribution.quantile(share)
    # Equal shares may round to the neighbour where share times number is a whole number.
    near = [value for value in values if value == pytest.approx(got, rel=5.1e-4)]
    assert near
    assert got == pytest.approx(due, rel=5.1e-4) or abs(np.mean(np.array(values) <= due) - share) < 1e-9
    assert distribution.mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-6)


@given(parts=st.lists(WORDS, max_size=8), capacity=st.integers(2, 12))
def test_a_count_is_too_low_by_the_error_at_most_and_never_too_high(parts, capacity):
    texts, true = TopTexts(capacity), Counter()
    for part in parts:
        texts.add(Counter(part))
        true.update(part)
    shown = dict(texts.top(100))
    for text, count in true.items():
        assert shown.get(text, 0) <= count <= shown.get(text, 0) + texts.error
    if len(true) <= capacity:
        assert texts.error == 0
        assert texts.top(3) == sorted(true.items(), key=lambda item: (-item[1], item[0]))[:3]
