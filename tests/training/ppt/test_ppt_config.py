"""The presets, and settings that are refused."""

import pytest

from pseudoris.schemas.errors import ConfigError
from pseudoris.training.ppt.point_generator import PointGenerator
from pseudoris.training.ppt.ppt_config import load_ppt_config
from pseudoris.training.ppt.recipes.grounding import prompted


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
    assert config.sam.architecture == "vit_b"
    # CLIP ViT-B/16: 768 channels a patch, 512 a word. Table 2: 20.7M.
    generator = PointGenerator(config.generator, 768, 512)
    assert sum(weight.numel() for weight in generator.parameters()) == pytest.approx(20.7e6, abs=0.05e6)


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
