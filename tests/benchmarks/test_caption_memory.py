"""The memory benchmark reports a run within its budget, and plans without weights."""

import re

import torch

from benchmarks import caption_memory
from schemas.config_loading import load_config


def test_a_measured_run_stays_within_its_budget():
    config = load_config("tiny", assignments=["captions.cache_bytes=4194304"])
    row = caption_memory.measure(config, num_masks=12, num_steps=6)
    taken = re.search(r"caches took (\d+) MiB", row.note)
    assert 1 <= int(taken[1]) <= 4


def test_the_paper_preset_is_planned_without_its_weights():
    text = caption_memory.planned(load_config("paper").captions, num_masks=60, dtype=torch.bfloat16)
    # 60 crops of 255 tokens, 12 layers of keys and values of width 768 in two bytes.
    assert f"{60 * 255 * 2 * 12 * 768 * 2 / 2**20:.0f} MiB a crop kind" in text
