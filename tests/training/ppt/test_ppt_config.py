"""The presets, and settings that trainings of older versions recorded."""

import json
from pathlib import Path

import pytest

from pseudoris.schemas.config_layers import validate_as
from pseudoris.schemas.errors import ConfigError
from pseudoris.training.ppt.point_generator import PointGenerator
from pseudoris.training.ppt.ppt_config import PptConfig, load_ppt_config
from pseudoris.training.ppt.recipes.grounding import prompted

# Of `tiny` in version 0.2.0: the settings in a training's checkpoint, and the shapes of its weights.
WRITTEN = Path(__file__).parents[2] / "fixtures" / "ppt_0_2_0.json"


def test_the_heads_of_paper_are_equation_2_on_features_alone() -> None:
    generator = load_ppt_config("paper").generator

    assert generator.point_head == "regression"
    assert not generator.is_response_read
    assert (generator.response_gain, generator.anchor_gain, generator.word_code_width) == (0, 0, 0)


def test_the_clip_of_paper_reads_the_expression_as_it_stands() -> None:
    assert prompted("the red star", load_ppt_config("paper").clip.prompt) == "the red star"


def test_paper_weighs_the_terms_of_equation_4_alike_and_adds_none() -> None:
    objective = load_ppt_config("paper").objective.model_dump()

    assert objective.pop("look") == 0
    assert objective.pop("point_correspondence") == "assignment"
    assert set(objective.values()) == {1.0}


def test_paper_has_the_sizes_of_section_4_1() -> None:
    config = load_ppt_config("paper")

    training = config.training
    assert (config.data.pairs_per_batch, training.optimiser, training.peak_rate) == (64, "adam", 1e-3)
    assert (training.schedule, training.num_warmup_steps, training.weight_decay) == ("constant", 0, 0)
    assert config.clip.architecture == "ViT-B-16-quickgelu"
    assert config.sam.architecture.encoder_width == 768
    # CLIP ViT-B/16: 768 channels a patch, 512 a word. Table 2: 20.7M.
    generator = PointGenerator(config.generator, 768, 512)
    assert sum(weight.numel() for weight in generator.parameters()) == pytest.approx(20.7e6, abs=0.05e6)


def test_settings_older_than_the_heads_mean_the_attention_and_its_weights() -> None:
    written = json.loads(WRITTEN.read_text(encoding="utf-8"))

    config = validate_as(PptConfig, written["config"])

    assert config.generator.point_head == "patch_attention"
    weights = PointGenerator(config.generator, 144, 128).state_dict()
    assert {name: list(weight.shape) for name, weight in weights.items()} == written["shapes"]
    assert config.decisive() == written["config"]


def test_tiny_records_what_it_recorded_before_so_that_an_older_training_resumes() -> None:
    written = json.loads(WRITTEN.read_text(encoding="utf-8"))["config"]
    config = load_ppt_config("tiny")

    former = config.model_copy(update={"curriculum": config.curriculum.named_as(written["curriculum"])})

    assert former.decisive() == written


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["generator.point_head=regression", "objective.look=0", "generator.response_gain=0"],
            r"no attention to patches, but response_gain is 0\.0 and anchor_gain 6\.0\. Set both to 0",
        ),
        (
            ["generator.point_head=regression", "generator.response_gain=0", "generator.anchor_gain=0"],
            r"objective\.look 1\.0 compares the attention to patches .* Set objective\.look to 0",
        ),
    ],
)
def test_settings_of_an_attention_are_refused_where_there_is_none(words, message) -> None:
    with pytest.raises(ConfigError, match=message):
        load_ppt_config("tiny", None, words)


@pytest.mark.parametrize(("old", "new"), [("composed", "ris_augmented"), ("referring", "ris_joint")])
def test_an_old_name_of_a_phase_is_refused_with_the_new_one(old, new) -> None:
    with pytest.raises(ConfigError, match=rf"curriculum\.phases: the phase {old} is now called {new}"):
        load_ppt_config("tiny", None, [f"curriculum.phases=[{{name: {old}, sources: [d_sem], epochs: 1}}]"])
