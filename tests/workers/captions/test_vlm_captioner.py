"""Captions by a vision-language model, and models that are refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.shard import Shard, ShardImage
from pseudoris.workers.captions import VlmCaptioner
from pseudoris.workers.captions.vlm_captioner import Vlm, VlmOptions, check_vlm, spoken_part, vlm_folder_digest
from pseudoris.workers.crops.crops import outlined
from pseudoris.workers.stages import STAGES
from tests.builders.images import encode
from tests.builders.scene_runs import mask_records
from tests.builders.vlms import save_vlm, small_vlm

SIDE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_vlm(tmp_path_factory.mktemp("models") / "llava")


def run_config(folder, *words, **options):
    shown = ", ".join(f"{name}: {value}" for name, value in {"prompt": "say", "crop_size": 28, **options}.items())
    settings = [
        *("captions.engine=vlm", "captions.architecture=null", f"captions.weights.uri={folder}"),
        *("captions.beam.num_beams=0", "captions.sampling={top_k: [3], top_p: [0.5, 0.9], max_others: 6}"),
        *("captions.max_length=8", "captions.min_length=3", f"captions.options={{{shown}}}"),
    ]
    return load_config("tiny", assignments=[*settings, *words])


def shard_of(*, num_masks=3):
    pixels = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    masks = np.zeros((num_masks, SIDE, SIDE), dtype=np.bool_)
    for number in range(num_masks):
        masks[number, 4 + 6 * number : 20 + 6 * number, 2 + 14 * number : 14 + 14 * number] = True
    image = ShardImage(0, "00ab", "a.png", encode(pixels), height=SIDE, width=SIDE, masks=mask_records("00ab", masks))
    return Shard(0, 0, (image,))


def captioned(config, shard):
    return STAGES[1].build(config)(shard).images[0].expressions


def test_every_mask_has_candidates_of_every_crop_kind_and_rule_and_a_listener_scores_them(folder):
    config = run_config(folder, "captions.listening={}", has_marked_crop=True)
    found = captioned(config, shard_of())
    drawn = [sample for each in found for sample in each.samples]
    assert len(drawn) == 3 * 5 * 3
    assert {sample.crop for sample in drawn} == {*("masked", "context_1.0", "context_1.1", "context_1.2"), "marked"}
    assert {(sample.others, sample.num_others) for sample in drawn} == {("all", 2)}
    assert all(each.listener is not None and 0 <= each.listener <= 1 for each in found)
    assert captioned(config, shard_of()) == found


def test_the_similarity_of_the_runs_filter_weighs_the_contrast(folder):
    alike, by_clip = (captioned(run_config(folder, similarity=name), shard_of()) for name in ("one", "clip"))
    assert [each.text for each in alike] != [each.text for each in by_clip]
    # Without contrast neither is asked.
    own = "captions.sampling.is_distinctive=false"
    alike, by_clip = (captioned(run_config(folder, own, similarity=name), shard_of()) for name in ("one", "clip"))
    assert alike == by_clip


def test_a_text_longer_than_the_filters_context_is_no_candidate(folder):
    config = run_config(folder, "captions.max_length=40", "captions.min_length=38")
    done = STAGES[1].build(config)(shard_of(num_masks=1))
    assert done.images[0].expressions == ()
    # Four crop kinds, three rules.
    assert done.long_texts == 12
    captioner = VlmCaptioner(config.captions, config.compute)
    # CLIP's own context is longer than that of tiny.
    assert captioner(shard_of(num_masks=1)).images[0].expressions


def test_captions_longer_than_the_models_positions_are_refused_before_anything_is_loaded(folder):
    config = run_config(folder, "captions.max_length=300")
    with pytest.raises(ConfigError, match=r"needs 299 positions, but .*llava has 222: --set captions.max_length=223"):
        STAGES[1].weights_digest(config)


def test_a_marked_crop_shows_the_whole_image_with_one_mask_outlined(folder):
    config = run_config(folder, has_marked_crop=True)
    image = shard_of().images[0]
    white = np.full((SIDE, SIDE, 3), 255, dtype=np.uint8)
    crops = VlmCaptioner(config.captions, config.compute).image_crops(image, white)
    assert crops.kinds[-1] == "marked"
    red = (crops.pixels[-1, :, 0] - crops.pixels[-1, :, 1]).clamp(min=0)
    for number, mask in enumerate(image.masks):
        x, y, _, _ = (edge * 28 // SIDE for edge in mask.box_xyxy_px)
        rows, columns = np.nonzero(red[number].numpy() > 0.2)
        assert abs(rows.min() - y) <= 1
        assert abs(columns.min() - x) <= 1


def test_the_outline_of_a_mask_lies_outside_of_it_where_there_is_room():
    grey = np.full((300, 400, 3), 90, dtype=np.uint8)
    mask = np.zeros((300, 400), dtype=np.bool_)
    mask[100:150, 200:260] = True
    marked = outlined(grey, mask)
    assert (marked[mask] == 90).all()
    assert ((marked == (255, 0, 0)).all(axis=2).sum()) > 2 * (50 + 60)
    whole = outlined(grey, np.ones_like(mask))
    assert (whole[0, 0] == (255, 0, 0)).all()
    assert (whole[150, 200] == 90).all()


def test_masks_that_are_equal_crops_and_images_without_masks_pass(folder):
    shard = shard_of(num_masks=2)
    image = shard.images[0]
    twins = replace(image, masks=(image.masks[0], replace(image.masks[0], mask_id="00ab-0001", index=1)))
    bare = replace(image, position=1, image_id="00ac", masks=())
    found = STAGES[1].build(run_config(folder))(shard.with_images((twins, bare)))
    assert found.images[0].expressions
    assert found.images[1].expressions == ()


# As docs/guides/vlm.md names them.
OF_ONE_TILE = {
    "smolvlm": {"do_image_splitting": False},
    "internvl": {"crop_to_patches": False},
    "gemma3": {"do_pan_and_scan": False},
    "qwen3_vl": {"size": {"shortest_edge": 784, "longest_edge": 784}},
    "qwen2_5_vl": {"size": {"shortest_edge": 784, "longest_edge": 784}},
}


def built(name="llava", **options):
    model, processor = small_vlm(name)
    return Vlm(model, processor, VlmOptions(prompt="say", crop_size=28, **options))


def sample_of(vlm):
    return vlm.inputs(torch.zeros(3, 28, 28, dtype=torch.uint8))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("Florence2Config", r"Florence2ForConditionalGeneration is an encoder-decoder"),
        ("Qwen3_5Config", r"has layers of kind linear_attention, and a tree of prefixes needs full or sliding"),
        ("Llama4Config", r"has layers of kind chunked_attention"),
        ("Gemma3nConfig", r"has final_logit_softcapping, so that its logits are not linear"),
        ("Cohere2VisionConfig", r"has logit_scale, so that its logits are not linear"),
    ],
)
def test_a_class_that_a_tree_of_prefixes_does_not_fit_is_refused_by_name(config, said):
    import transformers

    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(getattr(transformers, config)())
    with pytest.raises(ConfigError, match=said):
        check_vlm(model, small_vlm("llava")[1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda vlm: setattr(vlm.processor, "chat_template", None), "has no chat template"),
        (
            lambda vlm: setattr(vlm.processor, "chat_template", "{{ strftime_now('%Y-%m-%d') }}"),
            "has a chat template that says the day's date",
        ),
        (lambda vlm: setattr(vlm.model, "input_modalities", ("text",)), "takes no image"),
        (
            lambda vlm: vlm.model.lm_head.register_parameter("bias", torch.nn.Parameter(torch.ones(1))),
            "has a bias in its head",
        ),
    ],
)
def test_a_model_that_cannot_be_asked_is_refused_by_name(change, said):
    vlm = built()
    check_vlm(vlm.model, vlm.processor)
    change(vlm)
    with pytest.raises(ConfigError, match=f"LlavaForConditionalGeneration {said}"):
        check_vlm(vlm.model, vlm.processor)


def test_captions_end_at_any_eos_or_line_and_hold_no_special_token():
    vlm = built()
    tokenizer = vlm.processor.tokenizer
    vlm.model.generation_config.eos_token_id = [tokenizer.convert_tokens_to_ids("<video>"), tokenizer.eos_token_id]
    special = vlm.special_tokens(sample_of(vlm))
    (line,) = tokenizer.encode("\n", add_special_tokens=False)
    assert special.eos == tokenizer.convert_tokens_to_ids("<video>")
    assert special.further_eos == (tokenizer.eos_token_id, line)
    assert special.forbidden == tuple(sorted(tokenizer.convert_tokens_to_ids(["<image>", "<pad>"])))
    # The template ends with "assistant:".
    assert tokenizer.decode([special.sot]) == ":"


def test_a_template_that_opens_a_thought_is_refused():
    vlm = built()
    vlm.processor.chat_template += "{{ ' <think>' }}"
    with pytest.raises(ConfigError, match="opens a thought, which would be the caption"):
        sample_of(vlm)


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ("The image shows a red cup on a table.", "a red cup on a table."),
        ("This picture depicts two dogs", "two dogs"),
        ("In the image, there is a man with a hat", "a man with a hat"),
        ("On this photo you can see a boat", "a boat"),
        ("The main object in the image is a blue chair.", "a blue chair."),
        ("The object appears to be a lamp", "a lamp"),
        ('Sure! Here is a short phrase: "small white dog"', "small white dog"),
        ("**Caption:** woman in black", "woman in black"),
        ("- the left zebra", "the left zebra"),
        ("This is a bus", "a bus"),
        ("It's a bus", "a bus"),
        ("ok sign on a wall", "ok sign on a wall"),
        ("in the picture frame, a dog", "in the picture frame, a dog"),
        ("a photo of the image on a wall", "a photo of the image on a wall"),
        ("island with palms", "island with palms"),
        ("object on the left", "object on the left"),
        ("the image", "the image"),
        ("", ""),
    ],
)
def test_what_a_model_says_around_a_caption_is_cut(answer, caption):
    assert spoken_part(answer) == caption


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("{promt: x}", r"captions.options of the engine vlm: .*promt: unknown key; did you mean prompt\?"),
        ("{crop_size: 4}", r"crop_size: Input should be greater than or equal to 16"),
        ("{similarity: sam}", r"similarity: Input should be 'clip' or 'one'"),
    ],
)
def test_an_option_that_is_wrong_is_refused_by_name(options, said):
    words = ["captions.engine=vlm", "captions.architecture=null", f"captions.options={options}"]
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        vlm_folder_digest(load_config("tiny", assignments=words).captions)


def test_an_option_that_the_processor_would_ignore_is_refused():
    with pytest.raises(ConfigError, match=r"processor has do_image_spliting, which SmolVLMProcessor would ignore"):
        sample_of(built("smolvlm", processor={"do_image_spliting": False}))
    for name, option in OF_ONE_TILE.items():
        assert sample_of(built(name, processor=option))["input_ids"].shape[0] == 1


def test_a_prompt_that_the_processor_cannot_make_is_refused():
    with pytest.raises(ConfigError, match=r"LlavaProcessor cannot make a prompt .*captions.options.processor"):
        sample_of(built(processor={"size": "large"}))


def test_captions_of_the_whole_picture_are_drawn_by_its_sampling_rules(folder):
    config = run_config(folder, "captions.whole_picture=4")
    (image,) = STAGES[1].build(config)(shard_of()).images
    assert len(image.whole_picture) == 4
    assert image.expressions == captioned(run_config(folder), shard_of())
