"""The figures equal those that a plain reading of the whole tables gives."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pseudoris.schemas.tables import EXPRESSIONS, MASKS
from pseudoris.store.location import RunLocation
from pseudoris.store.reports.statistics import run_statistics
from pseudoris.store.tables.committed_tables import read_table
from tests.builders.scored_runs import begin, commit_scored, scored_run
from tests.store.builders import start_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    location = RunLocation.open(str(tmp_path_factory.mktemp("figures") / "run"))
    scored_run(location, num_shards=6, has_humans=True)
    return location


@pytest.fixture(scope="module")
def rows(run):
    return read_table(run, EXPRESSIONS).to_pylist()


def test_masks_an_image_count_empty_images_and_not_quarantined_ones(run):
    found = run_statistics(run).masks_an_image
    masks = Counter(read_table(run, MASKS)["image_id"].to_pylist())
    per_image = [*masks.values(), *[0] * 6]
    assert found.num_values == len(per_image) == 24
    assert found.mean == pytest.approx(np.mean(per_image))
    assert [found.quantile(share) for share in (0, 0.5, 1)] == [0, 1, 3]


def test_kept_a_mask_counts_masks_without_any(run, rows):
    found = run_statistics(run).kept_a_mask
    kept = Counter(mask for row in rows if row["kept"] for mask in row["target_mask_ids"])
    per_mask = [kept[mask] for mask in read_table(run, MASKS)["mask_id"].to_pylist()]
    assert found.num_values == len(per_mask)
    assert found.mean == pytest.approx(np.mean(per_mask))
    assert found.quantile(1) == max(per_mask)


def test_words_are_counted_in_kept_expressions(run, rows):
    found = run_statistics(run).words
    lengths = [len(row["text"].split()) for row in rows if row["kept"]]
    assert found.num_values == len(lengths)
    assert found.mean == pytest.approx(np.mean(lengths))


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


def test_a_sample_looks_into_so_many_shards_and_totals_are_of_all(run, rows):
    seen = []
    found = run_statistics(run, sample=2, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
    assert found.num_shards_read == 2
    assert found.totals.expressions == len(rows)
    assert 0 < found.scores["count"].num_values < len(rows)


def test_a_growing_run_and_one_without_a_commit_have_figures(tmp_path):
    location = RunLocation.open(str(tmp_path / "run"))
    commit_scored(location, begin(location), 2)
    assert (run_statistics(location).totals.images, run_statistics(location).num_planned_images) == (5, 20)
    empty = RunLocation.open(str(tmp_path / "empty"))
    start_run(empty)
    assert run_statistics(empty).masks_an_image.mean is None
