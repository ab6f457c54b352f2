"""The plug-in captioner that a page shows: it is found by its entry point, and fills a shard as captioners do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    set_seed,
)

from pseudoris import ConfigError
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.shard import Shard, ShardImage
from pseudoris.workers.stages import STAGES
from tests.builders.images import encode, random_pixels
from tests.builders.scene_runs import mask_records

SIDE = 40
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] [DEC] Red blue small large circle square dog cat the on"

pytestmark = pytest.mark.slow


def save_blip(folder: Path) -> Path:
    set_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0, "vocab_size": len(WORDS.split())}
    config = BlipConfig(
        text_config={**size, **ids, "max_position_embeddings": 32, "encoder_hidden_size": 16},
        vision_config={**size, "image_size": 32, "patch_size": 16},
    )
    BlipForConditionalGeneration(config).save_pretrained(folder)
    tokenizer = BertTokenizerFast(vocab={word: number for number, word in enumerate(WORDS.split())})
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_blip(tmp_path_factory.mktemp("blip"))


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch):
    (tmp_path / "blip-1.0.dist-info").mkdir()
    (tmp_path / "blip-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: blip\nVersion: 1.0\n")
    entry = "[pseudoris.captioners]\nblip = examples.blip_captioner:BlipCaptioner\n"
    (tmp_path / "blip-1.0.dist-info" / "entry_points.txt").write_text(entry)
    monkeypatch.syspath_prepend(str(tmp_path))


def captioner(folder, *words):
    settings = ["captions.engine=blip", f"captions.weights.uri={folder}", "captions.architecture=null", *words]
    return STAGES[1].build(load_config("tiny", assignments=settings))


def image(key, seed):
    masks = np.zeros((2, SIDE, SIDE), np.bool_)
    masks[0, 2:20, 3:30], masks[1, 22:38, 5:35] = True, True
    data = encode(random_pixels(SIDE, SIDE, seed=seed))
    return ShardImage(0, key, f"{key}.png", data, sha256=key, height=SIDE, width=SIDE, masks=mask_records(key, masks))


def test_each_mask_gets_its_draws_whatever_stands_beside_it(folder):
    stage = captioner(folder, "captions.options={draws: 7}")
    first, second = stage(Shard(0, 0, (image("00aa", 1), replace(image("00bb", 2), position=1)))).images
    for mask in first.masks:
        of_mask = [each for each in first.expressions if each.target_mask_ids == (mask.mask_id,)]
        assert sum(len(each.samples) for each in of_mask) == 7
        assert len({each.text for each in of_mask}) == len(of_mask) > 1
        assert all(each.text == each.text.lower().strip() for each in of_mask)
    (alone,) = stage(Shard(0, 0, (image("00bb", 2),))).images
    assert alone.expressions == second.expressions != first.expressions


def test_an_image_that_does_not_decode_fails_alone(folder):
    broken = replace(image("00cc", 3), data=b"no image", position=1)
    good, bad = captioner(folder)(Shard(0, 0, (image("00aa", 1), broken))).images
    assert good.expressions
    assert bad.failure is not None


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["captions.options={draws: none}"], "draws='none'"),
        (["captions.weights.uri=nowhere"], "nowhere/model.safetensors is no file"),
    ],
)
def test_what_it_cannot_use_is_refused(folder, words, told):
    with pytest.raises(ConfigError, match=told):
        captioner(folder, *words)
