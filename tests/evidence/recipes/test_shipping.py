"""What a training ships: its one command, its processes, and files, digests and card that agree."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from evidence.recipes.__main__ import Model, shortened, train
from evidence.recipes.caption_recipe import ClipTrainee
from evidence.recipes.caption_vocabulary import caption_vocabulary
from evidence.recipes.child_environment import MEMORY_ENVIRONMENT, child_environment
from evidence.recipes.shipped_weights import DESCRIPTIONS, ROOT, ship, shipped_state, write_weights
from evidence.recipes.training_plan import TrainingPlan
from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.ids import sha256_hex
from pseudoris.workers.checkpoints.openclip import load_clip, load_coca


@pytest.mark.long
def test_the_one_command_trains_ships_and_skips_what_is_done(tmp_path):
    plan = shortened(TrainingPlan(out=tmp_path, num_scenes=12, num_proposed_scenes=12), 2)
    train(plan, frozenset({Model.SAM}))
    assert plan.weights("sam").exists()
    assert not plan.weights("coca").exists()
    stamp = plan.weights("sam").stat().st_mtime_ns
    train(plan, frozenset({Model.SCENE_CLIP}))
    assert not plan.weights("coca").exists()
    train(plan, frozenset(Model))
    assert plan.weights("sam").stat().st_mtime_ns == stamp
    load_coca("builtin:tiny/coca.json", WeightsConfig(uri=str(plan.weights("coca"))))
    for model in ("clip", "scene_clip"):
        load_clip(f"builtin:tiny/{model}.json", WeightsConfig(uri=str(plan.weights(model))))


def test_children_have_the_settings_of_malloc_that_they_were_given_and_a_failure_leaves_none(monkeypatch):
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")
    monkeypatch.delenv("MALLOC_MMAP_MAX_", raising=False)
    before = dict(os.environ)
    with child_environment({}):
        assert "MALLOC_TOP_PAD_" not in os.environ
    with child_environment(MEMORY_ENVIRONMENT):
        assert MEMORY_ENVIRONMENT.items() <= os.environ.items()
    with pytest.raises(ValueError, match="lost"), child_environment(MEMORY_ENVIRONMENT):
        raise ValueError("lost")
    assert dict(os.environ) == before


@pytest.fixture
def tree(tmp_path) -> Path:
    root = tmp_path / "tree"
    presets = (f"schemas/presets/{name}.yaml" for name in ("tiny", "tiny-composed"))
    for name in (*presets, "workers/checkpoints/tiny/MODEL_CARD.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, root / name)
    return root


@pytest.fixture
def trained(tmp_path) -> Path:
    out = tmp_path / "out"
    out.mkdir()
    for size, model in enumerate(DESCRIPTIONS, start=1):
        save_file({"weight": torch.zeros(size), "token_ids": torch.arange(7)}, out / f"{model}.safetensors")
    return out


def test_files_digests_and_card_agree_after_shipping_and_once_more(tree, trained):
    ship(trained, tree)
    once = [path.read_bytes() for path in sorted(tree.rglob("*")) if path.is_file()]
    ship(None, tree)
    assert [path.read_bytes() for path in sorted(tree.rglob("*")) if path.is_file()] == once

    preset = yaml.safe_load((tree / "schemas/presets/tiny.yaml").read_text())
    composed = yaml.safe_load((tree / "schemas/presets/tiny-composed.yaml").read_text())
    longer = (trained / "coca_longer.safetensors").read_bytes()
    assert composed["captions"]["weights"]["sha256"] == sha256_hex(longer)
    card = (tree / "workers/checkpoints/tiny/MODEL_CARD.md").read_text()
    stages = {"sam": "masks", "coca": "captions", "clip": "filtering"}
    for size, model in enumerate(DESCRIPTIONS, start=1):
        data = (trained / f"{model}.safetensors").read_bytes()
        assert (tree / "workers/checkpoints/tiny" / f"{model}.safetensors").read_bytes() == data
        if model in stages:
            assert preset[stages[model]]["weights"]["sha256"] == sha256_hex(data)
        assert card.count(f"| `{model}.safetensors` | `{sha256_hex(data)}` | {len(data):,} | {size} |") == 1


def test_a_missing_file_changes_nothing(tree, trained):
    (trained / "clip.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"clip\.safetensors"):
        ship(trained, tree)
    assert not list(tree.rglob("*.safetensors"))


def test_a_model_trained_on_the_compact_vocabulary_is_the_full_one(tmp_path):
    torch.manual_seed(0)
    vocabulary = caption_vocabulary()
    trainee = ClipTrainee(vocabulary).eval()
    path = tmp_path / "clip.safetensors"
    digest = write_weights(path, shipped_state(trainee.model.state_dict(), vocabulary))
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    full = load_clip("builtin:tiny/clip.json", WeightsConfig(uri=str(path)))
    compact_tokens = vocabulary.encode(["a photo of a small red circle", "the star with a hat"])
    full_tokens = torch.tensor(vocabulary.ids)[compact_tokens]
    trainee.model.load_state_dict({name: t.half().float() for name, t in trainee.model.state_dict().items()})
    with torch.no_grad():
        assert torch.equal(trainee.model.encode_text(compact_tokens), full.encode_text(full_tokens))


def test_a_weight_beyond_half_precision_is_refused():
    with pytest.raises(ValueError, match=r"1 tensors are not finite in float16, the first are \['w'\]"):
        shipped_state({"w": torch.tensor([1e6])})
