"""The presets, and settings that are refused."""

import pytest

from pseudoris.schemas.errors import ConfigError
from pseudoris.training.ppt.point_generator import PointGenerator
from pseudoris.training.ppt.ppt_config import load_ppt_config
from pseudoris.training.ppt.recipes.grounding import prompted


def test_the_clip_of_paper_reads_the_expression_as_it_stands() -> None:
    assert prompted("the red star", load_ppt_config("paper").clip.prompt) == "the red star"


def test_paper_has_the_sizes_of_section_4_1() -> None:
    # CLIP ViT-B/16: 768 channels a patch, 512 a word. Table 2: 20.7M.
    generator = PointGenerator(load_ppt_config("paper").generator, 768, 512)
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
