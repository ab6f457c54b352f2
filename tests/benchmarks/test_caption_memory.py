"""The memory benchmark reports a run within its budget, and plans without weights."""

import re
from pathlib import Path

import pytest
import torch

from benchmarks import caption_memory
from pseudoris.schemas.config_layers import load_config

needs_linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux resets a peak")


@needs_linux
def test_a_measured_run_stays_within_its_budget():
    config = load_config("tiny", assignments=[f"captions.cache_bytes={256 * 2**20}"])
    row = caption_memory.measure(config, num_masks=12, num_kinds=2, num_steps=6)
    taken, grown = (int(number) for number in re.search(r"took (\d+) MiB.* grew by (\d+) MiB", row.note).groups())
    assert 1 <= taken <= 256
    assert grown <= 256


@pytest.mark.long
@needs_linux
def test_a_run_over_its_budget_gives_no_row():
    config = load_config("tiny", assignments=[f"captions.cache_bytes={2**20}"])
    with pytest.raises(ValueError, match="went over its budget"):
        caption_memory.measure(config, num_masks=12, num_kinds=2, num_steps=6)


def test_the_paper_preset_is_planned_without_its_weights():
    text = caption_memory.planned(load_config("paper").captions, num_masks=60, dtype=torch.bfloat16)
    # 60 crops of 255 tokens, 12 layers of keys and values of width 768 in two bytes.
    assert f"{60 * 255 * 2 * 12 * 768 * 2 / 2**20:.0f} MiB a crop kind" in text
