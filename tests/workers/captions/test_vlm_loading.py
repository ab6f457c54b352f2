import pytest
import torch

from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError
from pseudoris.workers.captions.vlm_captioner import spoken_part
from pseudoris.workers.captions.vlm_loading import Vlm, VlmOptions, check_vlm, vlm_folder_digest
from tests.builders.vlms import small_vlm

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
