"""A run's tables against a truth: what is judged, and what is calibrated from it."""

from dataclasses import replace

import numpy as np
import pytest

from schemas.confidence import CONFIDENCE_COLUMNS
from schemas.errors import ConfigError
from schemas.shard import SOURCE_COMPOSER
from store.location import RunLocation
from synthworld.truth import SceneTruth
from tests.builders.scene_runs import quarantined, said, scene_run, scenes, scored, truth_bytes
from training.calibration.fitting import NO_LABELS, NO_LABELS_VOTE
from training.calibration.reading import calibrated_run, judged_images

KNOWN = scenes(8)


def written(folder, change=scored):
    location = RunLocation.open(str(folder))
    scene_run(location, KNOWN, change=change)
    return location


@pytest.fixture
def truth():
    return SceneTruth.from_json(truth_bytes(dict(list(KNOWN.items())[:6])), "truth.json")


def test_all_candidates_of_the_images_that_the_truth_knows_are_judged(tmp_path, truth):
    found = judged_images(written(tmp_path / "run"), truth)
    assert len(found) == 6
    for image in found:
        assert len(image.is_right) == len(image.rated.texts) == len(image.rated.groups) == len(image.targets)
        assert list(image.rated.scores) == list(CONFIDENCE_COLUMNS)
        assert not np.isnan(image.rated.scores["truth"]).any()
        assert image.num_masks > 0
        assert len(image.beside.is_right) == 0
    right = np.concatenate([image.is_right for image in found])
    assert 0 < right.sum() < len(right)
    assert len(judged_images(written(tmp_path / "again"), truth, max_images=2)) == 2


def test_what_was_composed_is_kept_beside_and_is_no_candidate(tmp_path, truth):
    def composing(image):
        image = scored(image)
        one = replace(
            said(image.masks[0].mask_id, "the leftmost thing"), samples=(), source=SOURCE_COMPOSER, kind="position"
        )
        return replace(image, expressions=(*image.expressions, one))

    found = judged_images(written(tmp_path / "run", composing), truth)
    assert [len(image.beside.is_right) for image in found] == [1] * 6
    assert all("the leftmost thing" not in image.rated.texts for image in found)


def test_a_quarantined_image_is_left_out(tmp_path, truth):
    first = next(iter(KNOWN))
    found = judged_images(written(tmp_path / "run", lambda i: quarantined(i) if i.key == first else scored(i)), truth)
    assert len(found) == 5


@pytest.mark.parametrize(("has_listened", "names"), [(True, NO_LABELS), (False, NO_LABELS_VOTE)])
def test_without_a_truth_every_image_counts_and_the_scores_that_there_are(tmp_path, has_listened, names):
    location = written(tmp_path / "run", lambda image: scored(image, has_listened=has_listened))
    found = calibrated_run(location, None, coverage=0.5, least_yield=1.5)
    assert found.num_images == 8
    weights = found.weights.model_dump(exclude_defaults=True)
    assert weights.keys() - {"bias"} == set(names)
    assert all(weights[name] > 0 for name in names)
    assert found.reached.distinct == pytest.approx(1.5, abs=0.5)


def test_with_a_truth_a_run_without_a_listener_weighs_the_vote(tmp_path, truth):
    location = written(tmp_path / "run", lambda image: scored(image, has_listened=False))
    found = calibrated_run(location, truth, coverage=0.1, least_yield=0.5)
    assert not found.weights.needs_listener
    assert found.weights.vote != 0
    assert found.reached.coverage >= 0.1


def test_a_truth_of_other_images_is_refused(tmp_path):
    other = SceneTruth.from_json(truth_bytes({"elsewhere.png": KNOWN["scene-000.png"]}), "truth.json")
    with pytest.raises(ConfigError, match=r"no committed image with candidates that the truth .* knows"):
        judged_images(written(tmp_path / "run"), other)


def test_a_run_without_candidates_is_refused_without_a_truth_too(tmp_path):
    location = written(tmp_path / "run", quarantined)
    with pytest.raises(ConfigError, match=r"no committed image with candidates$"):
        calibrated_run(location, None, coverage=0.5, least_yield=1.0)
