import pytest

from pseudoris.schemas.config import WeightsConfig
from pseudoris.workers.checkpoints.openclip import load_clip, load_coca
from recipes.__main__ import Model, shortened, train
from recipes.training_plan import TrainingPlan


def test_a_trial_shortens_every_phase(tmp_path):
    plan = shortened(TrainingPlan(out=tmp_path), 3)
    recipes = (plan.sam, *plan.sam_further, plan.coca, plan.clip, plan.coca_on_masks, plan.clip_on_masks)
    assert [recipe.steps for recipe in (*recipes, plan.scene_clip)] == [3] * 9


@pytest.mark.long
@pytest.mark.slow
def test_the_one_command_trains_ships_and_skips_what_is_done(tmp_path):
    plan = shortened(TrainingPlan(out=tmp_path, num_scenes=12, num_proposed_scenes=12), 2)
    train(plan, frozenset({Model.SAM}))
    assert plan.weights("sam").exists()
    assert not plan.weights("coca").exists()
    stamp = plan.weights("sam").stat().st_mtime_ns
    train(plan, frozenset({Model.SCENE_CLIP}))
    assert not plan.weights("coca").exists()
    train(plan, frozenset(Model))
    assert plan.weights("sam").stat().st_mtime_ns == stamp
    load_coca("builtin:tiny/coca.json", WeightsConfig(uri=str(plan.weights("coca"))))
    for model in ("clip", "scene_clip"):
        load_clip(f"builtin:tiny/{model}.json", WeightsConfig(uri=str(plan.weights(model))))
