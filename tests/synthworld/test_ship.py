"""Weights are shipped whole: files, the digests that verify them, and the card that names them."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from schemas.ids import sha256_hex
from synthworld.ship import DESCRIPTIONS, ROOT, ship, with_card_rows, with_preset_digests


@pytest.fixture
def tree(tmp_path) -> Path:
    root = tmp_path / "tree"
    for name in ("schemas/presets/tiny.yaml", "workers/checkpoints/tiny/MODEL_CARD.md"):
        (root / name).parent.mkdir(parents=True)
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
    card = (tree / "workers/checkpoints/tiny/MODEL_CARD.md").read_text()
    stages = {"sam": "masks", "coca": "captions", "clip": "filtering"}
    for size, model in enumerate(DESCRIPTIONS, start=1):
        data = (trained / f"{model}.safetensors").read_bytes()
        assert (tree / "workers/checkpoints/tiny" / f"{model}.safetensors").read_bytes() == data
        if model in stages:
            assert preset[stages[model]]["weights"]["sha256"] == sha256_hex(data)
        assert card.count(f"| `{model}.safetensors` | `{sha256_hex(data)}` | {len(data):,} | {size} |") == 1


def test_what_is_not_about_the_files_stays(tree, trained):
    before = (tree / "workers/checkpoints/tiny/MODEL_CARD.md").read_text()
    ship(trained, tree)
    after = (tree / "workers/checkpoints/tiny/MODEL_CARD.md").read_text()
    assert after.partition("\n\nHalf precision")[2] == before.partition("\n\nHalf precision")[2] != ""


def test_a_missing_file_changes_nothing(tree, trained):
    (trained / "clip.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"clip\.safetensors"):
        ship(trained, tree)
    assert not list(tree.rglob("*.safetensors"))


def test_a_preset_or_a_card_without_a_place_is_refused(trained):
    files = [trained / "sam.safetensors"]
    with pytest.raises(ValueError, match=r"0 places for the sha256 of sam\.safetensors"):
        with_preset_digests("masks: {}\n", files)
    with pytest.raises(ValueError, match="no table of files"):
        with_card_rows("# A card\n", files)
