"""Crops and texts are embedded as open_clip embeds them, and texts are made beside a GPU's thread as on it."""

import copy
import time
from contextlib import nullcontext

import open_clip
import psutil
import pytest
import torch

from pseudoris.primitives.clip_tokenizer import ClipTokenizer
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.measures import BATCH_FILL, collecting
from pseudoris.schemas.config import ComputeConfig, FilterConfig, WeightsConfig
from pseudoris.workers.checkpoints.openclip import build_from_config, read_model_config
from pseudoris.workers.filtering import clip_embedder
from pseudoris.workers.filtering.caption_texts import TextMaker, announce
from pseudoris.workers.filtering.clip_embedder import AttentionPool, ClipEmbedder, TextTower, embed_in_tiles
from tests.oracles.pretended_gpu import pretended_gpu

TINY = FilterConfig(architecture="builtin:tiny/clip.json", weights=WeightsConfig(uri="random:3"), batch_size=8)


@pytest.fixture(scope="module")
def embedder():
    return ClipEmbedder(TINY, ComputeConfig(device="cpu"))


def test_a_tile_is_computed_before_the_next_piece_is_read():
    events = []
    pieces = (events.append(f"read {number}") or torch.zeros(2, 1) for number in range(3))
    embed_in_tiles(pieces, lambda block: events.append("encode") or block, tile=2)
    assert events == ["read 0", "encode", "read 1", "encode", "read 2", "encode"]


def test_a_text_has_the_same_bits_in_any_company(embedder):
    texts = [f"a {word} circle" for word in ("red", "blue", "small", "large", "dotted", "plain", "white")]
    together = embedder.embed_texts(texts)
    for row, text in enumerate(texts):
        assert torch.equal(embedder.embed_texts([text])[0], together[row])


def test_shared_prefixes_are_computed_once_and_how_full_the_tiles_are_is_recorded(embedder):
    nodes = 8 * 16
    with collecting() as measures:
        embedder.embed_texts(["a red circle", "a red star", "a red circle"])
    # Start, a, red; circle and star; the end of each text.
    assert measures == {(BATCH_FILL, "filter texts"): [7 / nodes]}


SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def build_embedder(monkeypatch, *, precision="float32", batch_size=8, device="cpu", **text_cfg):
    """Return the embedder of a small CLIP with a residual tower, and that CLIP as it was."""
    torch.manual_seed(0)
    model = build_from_config({**SMALL, "text_cfg": {**SMALL["text_cfg"], **text_cfg}}).eval().requires_grad_(False)
    for module in model.visual.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean, module.running_var):
                values.uniform_(0.5, 1.5)
    monkeypatch.setattr(clip_embedder, "load_clip", lambda *_: copy.deepcopy(model))
    config = TINY.model_copy(update={"batch_size": batch_size})
    return ClipEmbedder(config, ComputeConfig(device=device, precision=precision)), model


# They take several tiles. Long ones are cut at the context.
TEXTS = ["", "a red circle", "a red star", "a red circle", "very " * 500, "small star " * 60]
TEXTS += [f"a red circle and {number} stars" for number in range(20)]


@pytest.mark.parametrize(
    ("text_cfg", "precision", "tolerance"),
    [
        ({}, "float32", 1e-6),
        ({"proj_bias": True}, "float32", 1e-6),
        ({"width": 256, "heads": 4}, "float32", 1e-6),
        ({}, "bfloat16", 0.02),
        # These towers read the padding, so that no two texts share a prefix.
        ({"no_causal_mask": True}, "float32", 1e-6),
        ({"pool_type": "last"}, "float32", 1e-6),
    ],
    ids=["plain", "projection with a bias", "packed products", "bfloat16", "looks ahead", "pools the end"],
)
def test_texts_are_embedded_as_open_clip_embeds_each(monkeypatch, text_cfg, precision, tolerance):
    embedder, model = build_embedder(monkeypatch, batch_size=2, precision=precision, **text_cfg)
    with torch.inference_mode():
        expected = model.encode_text(embedder.tokeniser(TEXTS), normalize=True)
    torch.testing.assert_close(embedder.embed_texts(TEXTS), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("architecture", ["builtin:tiny/clip.json", "RN50-quickgelu"])
def test_the_presets_towers_have_a_tree(architecture):
    with torch.device("meta"):
        assert TextTower(build_from_config(read_model_config(architecture))).is_tree


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.02), ("float16", 0.005)])
def test_crops_of_a_residual_tower_are_embedded_as_open_clip_does(monkeypatch, device, precision, tolerance):
    crops = torch.rand(11, 3, 64, 64)
    with pretended_gpu() if device == "cuda" else nullcontext():
        embedder, model = build_embedder(monkeypatch, precision=precision, device=device)
        found, alone = (embedder.embed_crops([some.to(device)]) for some in (crops, crops[:1]))
    with torch.inference_mode():
        expected = model.encode_image(crops, normalize=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    assert torch.equal(alone, found[:1])
    # The tower has no norms, pools one output, and lies channels last.
    tower = embedder._model.visual
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in tower.modules())
    assert isinstance(tower.attnpool, AttentionPool)
    assert device == "cuda" or tower.conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_in_paper_clip_sees_crops_without_antialiasing(embedder):
    rough = ClipEmbedder(TINY.model_copy(update={"has_antialiasing": False}), ComputeConfig(device="cpu"))
    assert (embedder.crop_format.has_antialiasing, rough.crop_format.has_antialiasing) == (True, False)


def test_a_text_tower_with_a_tokenizer_of_its_own_is_refused():
    config = FilterConfig(architecture="roberta-ViT-B-32", weights=WeightsConfig(uri="random:0"))
    with pytest.raises(ConfigError, match=r"tokenizer 'roberta-base'.*choose another architecture"):
        ClipEmbedder(config, ComputeConfig(device="cpu"))


NOUNS = {"a red fire truck": "truck", "the dog's tail": "tail", "left": None, "r &amp; <end_of_text> 2": "r"}
CAPTIONS = [*NOUNS, "very " * 90]


def maker(*, is_ahead=True, **named):
    return TextMaker(TINY, ClipTokenizer(77), is_ahead=is_ahead, **named)


def text_processes():
    children = psutil.Process().children()
    # One that was killed is a zombie until its maker asks it again.
    living = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in living if "pseudoris.workers.filtering.caption_texts" in child.cmdline()]


def test_nouns_are_the_rules_and_tokens_are_open_clips():
    tokenise, made = open_clip.SimpleTokenizer(context_length=77), maker(is_ahead=False)(CAPTIONS)
    assert list(made) == CAPTIONS
    assert {text: made[text][0] for text in NOUNS} == NOUNS
    for caption, (_, prompt, *both) in made.items():
        assert [row + [0] * (77 - len(row)) for row in both] == tokenise([caption, prompt]).tolist()


@pytest.mark.slow
@pytest.mark.long
def test_texts_of_a_process_are_those_made_here_also_when_it_is_killed():
    make, here = maker(), maker(is_ahead=False)(CAPTIONS)
    announce(CAPTIONS[:2])
    assert make(CAPTIONS) == here
    announce(CAPTIONS)
    for process in text_processes():
        process.kill()
    # One that ended after its answer is missed, and replaced, when it is asked again.
    for _ in range(3):
        assert make(CAPTIONS) == here
    assert text_processes()


@pytest.mark.slow
def test_a_process_that_hangs_is_ended_and_its_texts_are_made_here(caplog):
    others, make, here = text_processes(), maker(timeout_s=3), maker(is_ahead=False)(CAPTIONS)
    make.begin(CAPTIONS)
    while not (started := set(text_processes()) - set(others)):
        time.sleep(0.01)
    (process,) = started
    process.suspend()
    assert make(CAPTIONS) == here
    assert "ended (EOFError" in caplog.text
    assert not process.is_running()
