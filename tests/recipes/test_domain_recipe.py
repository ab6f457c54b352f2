"""The domain is measured on training scenes, and its threshold on development scenes of every world."""

from pathlib import Path

import numpy as np
import pytest

from pseudoris.schemas.config_layers import load_config
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.synthworld.worlds import WORLDS
from pseudoris.workers.checkpoints.weight_files import local_file
from pseudoris.workers.domain import fit_statistics, image_embedding, load_encoder
from recipes.domain_recipe import DomainRecipe, measure_domain

MASKS = load_config("tiny").masks
RECIPE = DomainRecipe(num_known=6, num_development=2, margin=1.5)


@pytest.mark.slow
def test_the_threshold_is_above_every_development_scene_by_the_margin():
    encoder = load_encoder(MASKS.architecture, MASKS.weights)

    def embedded(split, world, count):
        scenes = (make_scene(split, position, world=world) for position in range(count))
        return np.stack([image_embedding(encoder, render(scene).image) for scene in scenes])

    found = measure_domain(Path(local_file(MASKS.weights)), RECIPE, seed=0, processes=1)
    known = np.concatenate([embedded(Split.TRAIN, world, 6) for world in ("default", "second")])
    expected = fit_statistics(known, MASKS.weights.sha256)
    np.testing.assert_array_equal(found.known, expected.known)
    assert found.encoder_sha256 == MASKS.weights.sha256
    scores = [found.score(each) for world in WORLDS for each in embedded(Split.DEVELOPMENT, world, 2)]
    assert found.max_score == pytest.approx(1.5 * max(scores), abs=0.001)
