import numpy as np
import pytest

from pseudoris.store.reports.statistics import DrawCount, DrawKind
from pseudoris.viewer.quality import quality_of_run
from tests.store.builders import empty, quarantined
from tests.viewer.builders import annotated, write_run

TWO = [(0, "a red circle", 1.5, 1), (0, "the dotted circle", 1.2, 1), (1, "a blue circle", 1.4, 0)]


@pytest.fixture
def run(tmp_path):
    """Two shards: an image of two masks, one of a lone mask, an empty and a quarantined one; then one of two masks."""
    return write_run(
        tmp_path / "run",
        ("a.png", lambda entry: annotated(entry, 2, TWO)),
        ("b.png", lambda entry: annotated(entry, 1, [(0, "a lone circle", None, None)])),
        ("c.png", empty),
        ("d.png", quarantined),
        ("e.png", lambda entry: annotated(entry, 2, [(0, "a Red circle!", 1.6, 1)])),
    )


def test_masks_and_lengths_are_counted_over_images_and_expressions(run):
    found = quality_of_run(run)

    assert dict(found.masks_per_image) == {2: 2, 1: 1, 0: 1}
    assert dict(found.lengths) == {3: 5}
    assert dict(found.kept_lengths) == {3: 4}
    assert (found.num_read, found.num_shards, found.summary.images) == (2, 2, 5)


def test_scores_come_with_the_verdict_and_a_mask_alone_has_only_one(run):
    found = quality_of_run(run)

    np.testing.assert_allclose(found.scores["distinctiveness"], [1.5, 1.2, 1.4, 1.6])
    assert found.is_kept["distinctiveness"].tolist() == [True, False, True, True]
    assert (found.scores["correctness"].size, found.scores["uniqueness"].size) == (5, 4)


def test_every_draw_counts_for_its_decoder_and_crop(run):
    found = quality_of_run(run)

    assert found.draws == {
        DrawKind("beam", None, "masked"): DrawCount(5, 4),
        DrawKind("top_p", 0.4, "context_1.2"): DrawCount(5, 4),
    }


def test_words_texts_nouns_and_duplicates_are_of_kept_expressions(run):
    found = quality_of_run(run)

    assert (found.all_words.num_words, found.kept_words.num_words) == (7, 5)
    assert found.texts == {"a red circle": 1, "a blue circle": 1, "a lone circle": 1, "a Red circle!": 1}
    assert found.nouns == {"circle": 4}
    assert (found.duplicates.compared, found.duplicates.seen_before) == (4, 1)


def test_a_large_run_is_read_in_part_and_its_totals_are_whole(run):
    found = quality_of_run(run, max_rows=4)

    assert (found.num_read, found.num_shards) == (1, 2)
    assert sum(found.lengths.values()) == 4
    assert (found.summary.candidates, found.summary.seconds) == (5, {"propose": 3.0, "caption": 4.0})
