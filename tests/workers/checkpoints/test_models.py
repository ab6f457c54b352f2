import json
import re
from importlib.resources import files

import pytest
import torch
from segment_anything import sam_model_registry

from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError
from pseudoris.workers.checkpoints.openclip import build_from_config, load_clip, load_coca, read_model_config
from pseudoris.workers.checkpoints.sam_architectures import sam_architecture
from pseudoris.workers.checkpoints.weight_files import weights_digest
from pseudoris.workers.masks.sam_model import build_sam

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
    # After a training: python -m recipes.shipped_weights OUT
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


def test_random_weights_follow_from_their_seed_and_leave_the_generator_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one = load_clip("builtin:tiny/clip.json", WeightsConfig(uri="random:3"))
    assert torch.equal(before, torch.random.get_rng_state())
    other = load_clip("builtin:tiny/clip.json", WeightsConfig(uri="random:3"))
    assert torch.equal(one.visual.proj, other.visual.proj)
    assert not torch.equal(
        one.visual.proj, load_clip("builtin:tiny/clip.json", WeightsConfig(uri="random:4")).visual.proj
    )


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


def kinds_of(names):
    """Names of tensors without the number of their layer."""
    return {re.sub(r"\.\d+\.", ".N.", name) for name in names}


def test_in_paper_the_authors_captioner_is_read_as_their_trainer_wrote_it(tmp_path, monkeypatch):
    paper = load_config("paper").captions
    architecture = tmp_path / "small.json"
    architecture.write_text(json.dumps(SMALL_COCA))
    trained = load_coca(str(architecture), WeightsConfig(uri="random:5"))
    with torch.device("meta"):
        authors = build_from_config(read_model_config(paper.architecture))
    assert kinds_of(trained.state_dict()) == kinds_of(authors.state_dict())
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
