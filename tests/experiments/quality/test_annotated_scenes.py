"""What is kept on disk is what the stages give, once, whatever was interrupted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from experiments.quality.annotated_scenes import DISTINCTIVE, NUCLEUS, SHIPPED, SceneSet, annotate, annotated_chunk
from experiments.quality.ladder import ALL_DRAWS, Draws
from experiments.quality.parts import Options
from pseudoris.synthworld.scenes import Split
from pseudoris.workers.captions import CocaCaptioner
from pseudoris.workers.filtering import ClipScorer
from pseudoris.workers.masks import SamProposer
from recipes.scene_shards import scene_image, scene_shard

pytestmark = pytest.mark.slow

SCENES = SceneSet(Split.DEVELOPMENT, 2)
CHUNK = SCENES.chunks[0]


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    options = Options(tmp_path_factory.mktemp("quality"), processes=1)
    annotate(options, SCENES, (DISTINCTIVE, NUCLEUS))
    return options


def cached(options, setting, bound=SHIPPED):
    return annotated_chunk(options.out, SCENES, CHUNK, setting, bound)


@pytest.fixture(scope="module")
def shard():
    return scene_shard([scene_image(SCENES.scene(position)) for position in CHUNK])


@pytest.mark.parametrize("setting", [DISTINCTIVE, NUCLEUS], ids=lambda setting: setting.name)
def test_a_cached_annotation_is_the_stages_own(options, shard, setting):
    config = setting.config()
    fresh = CocaCaptioner(config.captions, config.compute)(SamProposer(config.masks, config.compute)(shard))
    fresh = ClipScorer(config.filtering, config.compute)(fresh)
    assert cached(options, setting) == tuple(replace(image, data=b"") for image in fresh.images)


def test_leaving_draws_out_gives_what_fewer_samplers_and_crops_would_have_drawn(options, shard):
    config = replace(
        DISTINCTIVE,
        assignments=(
            "captions.sampling.top_k=[]",
            "captions.sampling.top_p=[0.6, 0.9]",
            "captions.context_scales=[1.1]",
        ),
    ).config()
    given = SamProposer(config.masks, config.compute)(shard)
    fresh = CocaCaptioner(config.captions, config.compute)(given).images
    fewer = Draws(crops=("masked", "context_1.1"), samplers=((None, 0.6), (None, 0.9)))
    for one, other in zip(fresh, cached(options, DISTINCTIVE), strict=True):
        left = fewer.of(other)
        assert {(e.target_mask_ids, e.text) for e in one.expressions} == {
            (e.target_mask_ids, e.text) for e in left.expressions
        }
        assert sum(len(e.samples) for e in left.expressions) == 6 * len(other.masks)
    assert ALL_DRAWS.of(other) is other


def test_what_stands_is_not_computed_again_and_what_is_missing_is(options):
    files = sorted(options.out.rglob("*.arrow"))
    # Masks, and two settings under two bounds.
    assert len(files) == 5
    before = {path: path.stat().st_mtime_ns for path in files}
    lost = next(path for path in files if "nucleus" in str(path) and path.name.endswith("shipped.arrow"))
    held = lost.read_bytes()
    lost.unlink()
    annotate(options, SCENES, (DISTINCTIVE, NUCLEUS))
    assert lost.read_bytes() == held
    untouched = [path for path in files if "nucleus" not in str(path)]
    assert {path: path.stat().st_mtime_ns for path in untouched} == {path: before[path] for path in untouched}
