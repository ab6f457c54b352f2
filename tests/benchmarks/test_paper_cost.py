"""The cost of a VLM's captions on paper: shapes against transformers' classes, and figures worked by hand."""

import dataclasses

import pytest
import torch

from benchmarks.paper_cost import PUBLISHED, Work, configured_work, paper_cost
from pseudoris.schemas.config_layers import load_config

# Of the checkpoints on the hub.
PARAMETERS = {"Qwen3-VL-2B-Instruct": 2_127_532_032, "Qwen3-VL-8B-Instruct": 8_767_123_696}


def model_of(shape):
    from transformers import AutoModelForImageTextToText, Qwen3VLConfig

    text = {
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_size,
        "intermediate_size": shape.inner,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.is_tied,
    }
    vision = {
        "hidden_size": shape.vision_hidden,
        "depth": shape.vision_layers,
        "intermediate_size": shape.vision_inner,
        "out_hidden_size": shape.hidden,
        "patch_size": shape.patch_px,
        "spatial_merge_size": shape.merge,
        "deepstack_visual_indexes": list(range(shape.num_mergers - 1)),
    }
    config = Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=shape.is_tied)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    model.tie_weights()
    return model


@pytest.mark.slow  # transformers takes seconds to import
@pytest.mark.parametrize("shape", PUBLISHED, ids=lambda shape: shape.name)
def test_a_shape_has_the_matrices_of_its_class_and_the_published_number_of_parameters(shape):
    parameters = dict(model_of(shape).named_parameters())
    assert sum(each.numel() for each in parameters.values()) == PARAMETERS[shape.name]

    def entries(*words):
        return sum(
            each.numel()
            for name, each in parameters.items()
            if each.ndim > 1 and "pos_embed" not in name and any(word in name for word in words)
        )

    assert shape.layer_weights == entries("language_model.layers")
    assert shape.merger_weights == entries("merger")
    assert shape.vision_weights == entries("visual.blocks", "patch_embed")
    assert shape.weight_bytes == 2 * entries("")


def test_tokens_and_cache_are_the_prompts_and_the_shared_columns():
    work = Work(num_masks=8, num_kinds=1, num_draws=10, num_others=7, crop_px=512, prompt_tokens=44)
    found = paper_cost(PUBLISHED[1], work)
    # A crop of 512 px is 32 x 32 patches, 16 x 16 tokens.
    assert found.tokens == 8 * (256 + 44) + round(0.6 * 8 * 10 * 12 * 8)
    # 36 layers, keys and values, 8 heads of 128 numbers of two bytes: 144 KiB.
    assert found.cache_bytes == found.tokens * 147_456


def test_arithmetic_takes_as_long_as_its_operations_and_a_lone_draw_as_reading_the_weights():
    shape = PUBLISHED[1]
    many = paper_cost(shape, Work(num_masks=30, num_others=6))
    least = 2 * many.tokens * shape.layer_weights / 300e12
    assert least < many.gpu_s < 1.5 * least
    lone = paper_cost(shape, Work(num_masks=1, num_kinds=1, num_draws=1, computed_share=1.0))
    prompt_only = paper_cost(shape, Work(num_masks=1, num_kinds=1, num_draws=0))
    weights = 2 * (shape.layer_weights + shape.vocabulary * shape.hidden)
    assert lone.gpu_s == pytest.approx(prompt_only.gpu_s, rel=1e-2)
    assert lone.gpu_s > 12 * weights / 3.35e12


@pytest.mark.parametrize(
    ("changes", "num_masks", "expected"),
    [
        (["sampling.max_others=30"], 8, {"num_others": 7}),
        ([], 30, {"num_others": 6}),
        (["sampling.above_max_others=no_contrast"], 30, {"num_others": 0}),
        (["sampling.is_distinctive=false"], 8, {"num_others": 0}),
        (["options={crop_size: 224, has_marked_crop: true}"], 8, {"num_others": 6, "crop_px": 224, "num_kinds": 3}),
    ],
)
def test_the_work_is_that_of_the_configuration(changes, num_masks, expected):
    captions = load_config("open", assignments=[f"captions.{word}" for word in changes]).captions
    assert dataclasses.asdict(configured_work(captions, num_masks)) == {
        **dataclasses.asdict(Work(num_masks=num_masks)),
        "num_kinds": 2,
        "num_draws": 10,
        "crop_px": 448,
        **expected,
    }
