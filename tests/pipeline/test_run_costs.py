"""What is proposed for a card loads as it is printed, and fits into the card by the sizes of models and passes."""

from functools import cache

import pytest
import torch
import yaml

from pseudoris.pipeline.run_contract import card_config
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config_layers import load_config
from pseudoris.workers.captions.cached_towers import CocaBlocks
from pseudoris.workers.captions.static_towers import GroupShape, group_bytes
from pseudoris.workers.captions.vocabulary_logits import score_dtype
from pseudoris.workers.checkpoints.openclip import build_from_config, read_model_config
from pseudoris.workers.checkpoints.sam_architectures import sam_architecture
from pseudoris.workers.masks.image_encoder import FusedEncoder
from pseudoris.workers.masks.sam_model import PromptableSam, build_sam

GIB = 2**30
MASKS, KINDS, VOCABULARY, IMAGE_TOKENS = 10, 4, 49_408, 255
# What `workers/masks` holds of a batch until it reads predicted IoU. Then it upscales, in 1 GiB before and after an
# activation, of half as large images; and at last upsamples logits, twice. A prompt in a pass: two copies of the
# image's tokens beside that which is held, and what they and seven tokens weigh for each other in eight heads.
HELD, UPSCALED, UPSAMPLED = 8 * GIB, 5 * GIB // 2, 4 * GIB
PROMPT, LOGITS = 2 * 4_096 * (2 * 256 + 2 * 8 * 7), 2 * 3 * 256**2


@cache
def sizes(preset):
    """Return the bytes of weights, of what is held of an image's points, and of an image's captions."""
    config = load_config(preset)
    with torch.device("meta"):
        numbers = sam_architecture(config.masks.architecture)
        texts = (read_model_config(part.architecture) for part in (config.captions, config.filtering))
    sam, coca, clip = build_sam(numbers), *(build_from_config(each).to(torch.bfloat16) for each in texts)
    modules = FusedEncoder(sam.image_encoder, torch.bfloat16), sam.prompt_encoder, sam.mask_decoder, coca, clip
    weights = sum(p.nbytes for module in modules for p in module.parameters())
    answers = PromptableSam(sam, dtype=torch.bfloat16).bytes_a_point * config.masks.points_per_side**2
    shape, width = GroupShape(MASKS, MASKS, rules=10, beams=2, positions=29), coca.text_decoder.width
    # Keys and values, states, logits in float32 and their order.
    group = group_bytes(CocaBlocks(coca), shape, IMAGE_TOKENS)
    group += shape.pairs * 14 * width * 2 + shape.prefixes * VOCABULARY * 2 * score_dtype(torch.bfloat16).itemsize
    return weights, answers, KINDS * group


@pytest.mark.parametrize("gib", [12, 16, 21, 24, 31.5, 48, 79.1, 80, 139.7, 141])
@pytest.mark.parametrize("preset", ["base", "paper"])
def test_settings_of_a_card_load_as_printed_and_fit_by_the_memory_model(preset, gib, tmp_path):
    text = card_config(load_config(preset), gib * GIB)
    (tmp_path / "card.yaml").write_text(text)
    config = load_config(None, tmp_path / "card.yaml")
    weights, answers, captions = sizes(preset)
    points, cache_bytes = config.masks.points_per_batch, config.captions.cache_bytes
    images, num_points = 1 if gib < 48 else HELD // answers, config.masks.points_per_side**2
    a_pass = min(16 * points, num_points) * PROMPT
    masks = max(images * answers + max(a_pass, UPSCALED), images * num_points * LOGITS + UPSAMPLED)
    assert GIB + weights + masks + cache_bytes <= 0.9 * gib * GIB
    # An eighth is for temporaries. An image fits, but on the smallest cards of `paper`.
    assert (cache_bytes * 7 // 8 >= captions) == (preset == "base" or gib >= 24)
    assert (config.preset, config.compute.device, config.placement.fused.num_gpus) == (preset, "cuda", 1)
    preset_only = load_config(preset)
    assert config.shards == preset_only.shards
    assert config.captions.weights == preset_only.captions.weights


def test_each_proposed_figure_says_that_no_such_card_was_measured():
    text = card_config(load_config("base"), 80 * GIB)
    settings = [line for line in text.splitlines() if any(letter.isdigit() for letter in line.partition("#")[0])]
    assert len(settings) == 6
    assert all("modelled, not measured on such a card" in line for line in settings)
    assert set(yaml.safe_load(text)) == {"preset", "compute", "masks", "captions", "filtering", "placement"}


@pytest.mark.parametrize(
    ("preset", "words", "gib", "told"),
    [
        ("paper", (), 8, r"a GPU of 8 GiB is smaller than the smallest for which settings of paper are known, 12 GiB"),
        ("tiny", (), 24, "not for sam, tiny, coca, .*: give --preset base or paper"),
        ("base", ("masks.engine=sam2",), 24, "not for sam2, vit_b, coca, coca_ViT-B-32, clip: give"),
    ],
)
def test_a_card_that_is_too_small_and_other_models_are_one_sentence(preset, words, gib, told):
    with pytest.raises(ConfigError, match=told):
        card_config(load_config(preset, assignments=words), gib * GIB)
