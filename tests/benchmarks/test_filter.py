"""The filter's benchmark: both filters give the same scores, and the share is of real captioning."""

import json

import pytest

from benchmarks import filter as filter_benchmark
from pseudoris.schemas.config_layers import load_config

CONFIG = load_config("tiny", assignments=["captions.context_scales=[1.0]", "captions.max_length=8"])


@pytest.mark.slow
def test_both_filters_score_alike_and_the_note_gives_the_share():
    share, plain, _ = filter_benchmark.measure(CONFIG, num_images=1, max_masks=2, repeats=1, caption_repeats=1)
    assert "% of the captioner" in share.note
    assert share.ours_s == plain.ours_s
    assert "candidates within" in plain.note


@pytest.mark.slow
def test_scores_that_differ_are_not_timed(monkeypatch):
    monkeypatch.setattr(filter_benchmark, "largest_difference", lambda one, other: 0.5)
    with pytest.raises(ValueError, match=r"scores differ by 0\.5"):
        filter_benchmark.measure(CONFIG, num_images=1, max_masks=2, repeats=1, caption_repeats=1)


@pytest.mark.long
def test_the_command_line_writes_three_rows(tmp_path):
    path = tmp_path / "rows.json"
    arguments = ["--images", "1", "--masks", "2", "--repeats", "1", "--caption-repeats", "1", "--json", str(path)]
    filter_benchmark.main([*arguments, "--set", "captions.max_length=6"])
    assert len(json.loads(path.read_text(encoding="utf-8"))) == 3
