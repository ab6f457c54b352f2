"""The recipes' presets."""

from pseudoris.training.ppt.recipes.recipe_config import load_recipe_config


def test_paper_has_the_models_and_the_recipes_of_sections_3_2_to_4_1() -> None:
    config = load_recipe_config("paper")

    # "CLIP [32] followed by SAM": CLIP Surgery in the last six blocks, with its feature surgery.
    assert (config.grounding.surgery_blocks, config.grounding.is_feature_surgery) == (6, True)
    assert config.run.filtering.architecture == "ViT-B-16-quickgelu"
    assert config.run.masks.architecture == "vit_b"
    # "We embed one image within another", and a candidate for each noun phrase.
    assert config.compose.embedded == "image"
    assert config.pairs.peaks_per_phrase == 1
