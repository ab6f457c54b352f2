"""Models are built as published, their files are those that are named, and tokens are open_clip's."""

import json
import re
from importlib.resources import files

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from segment_anything import sam_model_registry
from torch.utils._python_dispatch import TorchDispatchMode

from pseudoris.primitives.clip_tokenizer import ClipTokenizer
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import ComputeConfig, WeightsConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.shard import ShardImage
from pseudoris.workers.captions import CocaCaptioner
from pseudoris.workers.checkpoints.openclip import build_from_config, load_clip, load_coca, read_model_config
from pseudoris.workers.checkpoints.sam_architectures import sam_architecture
from pseudoris.workers.checkpoints.weight_files import weights_digest
from pseudoris.workers.filtering.clip_embedder import ClipEmbedder
from pseudoris.workers.masks.sam_model import build_sam
from tests.builders.scene_runs import mask_records

CONFIG = load_config("tiny")
TINY = files("pseudoris.workers.checkpoints") / "tiny"


@pytest.mark.parametrize(
    ("model", "preset", "stage"),
    [
        ("sam", "tiny", "masks"),
        ("coca", "tiny", "captions"),
        ("clip", "tiny", "filtering"),
        ("coca_longer", "tiny-composed", "captions"),
        ("scene_clip", None, None),
        ("sam_prompts", None, None),
    ],
)
def test_the_digests_of_the_files_are_those_of_the_preset_and_of_the_model_card(model, preset, stage):
    # After a training: python -m evidence.recipes.shipped_weights OUT
    card = (TINY / "MODEL_CARD.md").read_text(encoding="utf-8")
    said = re.search(rf"`{model}\.safetensors` \| `([0-9a-f]{{64}})`", card)
    found = weights_digest(WeightsConfig(uri=f"builtin:tiny/{model}.safetensors"))
    if preset is not None:
        assert getattr(load_config(preset), stage).weights.sha256 == found
    assert said is not None
    assert said.group(1) == found


def test_unused_tokens_have_a_logit_of_exactly_zero():
    model = load_coca(CONFIG.captions.architecture, CONFIG.captions.weights)
    used = (model.text_decoder.text_projection.abs().sum(0) > 0).sum().item()
    assert 20 < used < 200
    assert model.text.token_embedding.weight.shape[0] == 49408


def test_random_weights_are_all_drawn_follow_from_their_seed_and_leave_the_generator_alone():
    before = torch.random.get_rng_state()
    one, same, other = (
        load_coca("builtin:tiny/coca.json", WeightsConfig(uri=f"random:{seed}")).state_dict() for seed in (3, 3, 4)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    projection = one["text_decoder.text_projection"]
    assert not torch.equal(projection, other["text_decoder.text_projection"])
    # open_clip leaves it as memory was.
    assert projection.std().item() == pytest.approx(128**-0.5, rel=0.05)


class Draws(TorchDispatchMode):
    """Counts how often values are drawn at random."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.name() in ("aten::normal_", "aten::uniform_")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("weights", [CONFIG.captions.weights, WeightsConfig(uri="random:3")], ids=["a file", "random"])
def test_values_are_drawn_only_where_no_file_holds_them(weights):
    with Draws() as drawn:
        load_coca(CONFIG.captions.architecture, weights)
    assert bool(drawn.count) == (weights.uri == "random:3")


@pytest.mark.parametrize(("preset", "name"), [("base", "vit_b"), ("paper", "vit_h")])
def test_each_preset_builds_its_published_sam(preset, name):
    # The larger one would take 2.5 GB of memory.
    with torch.device("meta"):
        ours = build_sam(sam_architecture(load_config(preset).masks.architecture)).state_dict()
        published = sam_model_registry[name]().state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {n: t.shape for n, t in published.items()}


# The architecture of the authors' captioner, coca_ViT-L-14, with every width small and fewer layers.
TEXT = {"context_length": 12, "vocab_size": 40, "width": 16, "heads": 2, "layers": 2}
POOLED = {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
SMALL_COCA = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 28, "layers": 2, "width": 32, "head_width": 8, "patch_size": 14, **POOLED},
    "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": TEXT,
    "custom_text": True,
}


def test_in_paper_the_authors_captioner_is_read_as_their_trainer_wrote_it(tmp_path, monkeypatch):
    paper = load_config("paper").captions
    architecture = tmp_path / "small.json"
    architecture.write_text(json.dumps(SMALL_COCA))
    trained = load_coca(str(architecture), WeightsConfig(uri="random:5"))
    with torch.device("meta"):
        authors = build_from_config(read_model_config(paper.architecture))
    # Names of tensors without the number of their layer.
    ours, theirs = ({re.sub(r"\.\d+\.", ".N.", name) for name in each.state_dict()} for each in (trained, authors))
    assert ours == theirs
    # open_clip's trainer: the model under DistributedDataParallel beside its optimiser and the scaler.
    optimiser = torch.optim.AdamW(trained.parameters())
    sum(parameter.sum() for parameter in trained.parameters()).backward()
    optimiser.step()
    checkpoint = {
        "epoch": 1,
        "name": "laion_cc3m",
        "state_dict": {f"module.{name}": tensor for name, tensor in trained.state_dict().items()},
        "optimizer": optimiser.state_dict(),
        "scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 7},
    }
    # Where `hf download` puts their file.
    monkeypatch.chdir(tmp_path)
    theirs = tmp_path / "checkpoints" / "pseudo-ris" / "laion_cc3m" / "checkpoints" / "epoch_1.pt"
    theirs.parent.mkdir(parents=True)
    torch.save(checkpoint, theirs)
    read = load_coca(str(architecture), paper.weights)
    for name, tensor in trained.state_dict().items():
        assert torch.equal(read.state_dict()[name], tensor), name


def test_the_paper_preset_names_the_authors_captioner_and_laions_beside_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    weights = load_config("paper").captions.weights
    with pytest.raises(
        ConfigError, match=r"hf download SeonghoonYu/pseudo-ris .*, or LAION's: --set .*laion2b_s13b_b90k"
    ):
        weights_digest(weights)


ARCHITECTURE = {"encoder_width": 64, "encoder_depth": 2, "encoder_heads": 2, "encoder_global_blocks": [1]}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image_size": 100}, "image_size 100 is not a multiple of patch_size 16"),
        ({"encoder_heads": 5}, "encoder_width 64 is not a multiple of heads 5"),
        ({"encoder_global_blocks": [2]}, r"\[2\] lie outside 0..1"),
        ({"depth": 2}, "depth: Extra inputs are not permitted"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(changed, message, tmp_path):
    path = tmp_path / "sam.json"
    path.write_text(json.dumps(ARCHITECTURE), encoding="utf-8")
    assert sam_architecture(str(path)).encoder_width == 64
    path.write_text(json.dumps(ARCHITECTURE | changed), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        sam_architecture(str(path))


DRAWN = WeightsConfig(uri="random:0")


def with_few_weights(settings, path, *, width, layers):
    """The settings of a stage of paper, with the image size of its architecture and little else."""
    config = read_model_config(settings.architecture)
    for part in {"text_cfg", "multimodal_cfg"} & config.keys():
        config[part] |= {"width": 16, "heads": 2, "layers": 1}
    config["vision_cfg"] |= {"width": width, "layers": layers}
    path.write_text(json.dumps({**config, "embed_dim": 16}))
    return settings.model_copy(update={"architecture": str(path), "weights": WeightsConfig(uri="random:0")})


def test_both_models_of_paper_see_224_pixels(tmp_path):
    paper = load_config("paper").without_card()
    captioner, clip = (read_model_config(each.architecture)["vision_cfg"] for each in (paper.captions, paper.filtering))
    # ViT-L/14, and ResNet-50.
    assert (captioner["width"], captioner["layers"], captioner["patch_size"]) == (1024, 24, 14)
    assert clip["layers"] == [3, 4, 6, 3]
    compute = ComputeConfig(device="cpu")
    captions = with_few_weights(paper.captions, tmp_path / "coca.json", width=64, layers=1)
    image = ShardImage(0, "00ab", "0.png", b"", masks=mask_records("00ab", np.ones((1, 4, 4), bool)))
    crops = CocaCaptioner(captions, compute).image_crops(image, np.zeros((4, 4, 3), np.uint8))
    assert crops.pixels.shape[-2:] == (224, 224)
    filtering = with_few_weights(paper.filtering, tmp_path / "clip.json", width=4, layers=[1, 1, 1, 1])
    embedder = ClipEmbedder(filtering, compute)
    assert embedder.crop_format.size == 224
    assert embedder.embed_crops([torch.zeros(1, 3, 224, 224)]).shape == (1, 16)


SOUND = {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ('{"embed_dim": 3}', "it needs embed_dim"),
        ("[" * 100_000, "is not JSON"),
        ('{"embed_dim": ' + "9" * 5_000 + "}", "is not JSON"),
        ('"' + "x" * 2**20 + '"', "is a file of 1,048,578 bytes, a model config has at most 1,048,576"),
        (json.dumps({**SOUND, "embed_dim": 10**12}), "embed_dim is 1000000000000; the numbers of a model are at most"),
        (json.dumps({**SOUND, "text_cfg": {"layers": -(10**9)}}), r"text_cfg\.layers is -1000000000"),
        (json.dumps({**SOUND, "vision_cfg": {"layers": [1, float("nan")]}}), r"vision_cfg\.layers is nan"),
        (json.dumps({**SOUND, "no_such_setting": 1}), "open_clip cannot build this architecture .TypeError"),
        (json.dumps({**SOUND, "vision_cfg": 3}), "open_clip cannot build this architecture"),
    ],
)
def test_a_config_that_is_none_or_absurd_is_refused_before_memory_is_taken(tmp_path, text, message):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_clip(str(path), DRAWN)


CONTEXT = 12
OURS, THEIRS = ClipTokenizer(CONTEXT), open_clip.SimpleTokenizer(context_length=CONTEXT)


# Texts that are known to be hard.
HARD = [
    *("", "   ", "a photo of a red fire truck", "the dog's tail", "r &amp; b", "<end_of_text>", "two-tone"),
    "very " * 40,
]


@example(HARD)
@given(st.lists(st.text(alphabet=st.sampled_from("abcdeiorst  '&;<>.-é1A\n"), max_size=30), min_size=1, max_size=4))
def test_any_texts_have_open_clips_tokens(texts):
    assert torch.equal(OURS(texts), THEIRS(texts))
