"""The filter's benchmark: both filters give the same scores, and the share is of real captioning."""

import json
from dataclasses import replace

import pytest

from benchmarks import filter as filter_benchmark
from benchmarks.forced_captions import draw, forced
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.shard import ExpressionRecord
from pseudoris.workers.captions import CocaCaptioner

CONFIG = load_config("tiny", assignments=["captions.context_scales=[1.0]", "captions.max_length=8"])


@pytest.mark.slow
def test_both_filters_score_alike_and_the_note_gives_the_share():
    share, plain = filter_benchmark.measure(CONFIG, num_images=1, max_masks=2, repeats=1, caption_repeats=1)
    assert "% of the captioner" in share.note
    assert share.ours_s == plain.ours_s
    assert "candidates within" in plain.note


@pytest.mark.slow
def test_captions_of_a_trained_preset_are_drawn_by_another_model():
    untrained = load_config("tiny", assignments=["captions.weights.uri=random:0"])
    shard = filter_benchmark.build_shard(1, 2)
    drawing, drawing_otherwise = (CocaCaptioner(each.captions, each.compute) for each in (CONFIG, untrained))
    caption = forced(untrained, CONFIG.captions, draw(CONFIG, shard))
    texts = [[each.text for each in one(shard).images[0].expressions] for one in (drawing, drawing_otherwise, caption)]
    assert texts[0] == texts[2] != texts[1]
    assert all(len(text.split()) < 12 for text in texts[2])


@pytest.mark.slow
def test_a_row_names_whose_captions_were_drawn_and_how_many():
    untrained = load_config("tiny", assignments=["captions.weights.uri=random:0"])
    sizes = {"num_images": 1, "max_masks": 2, "repeats": 1, "caption_repeats": 1}
    share, _ = filter_benchmark.measure(untrained, **sizes, captions_of=CONFIG)
    (image,) = CocaCaptioner(CONFIG.captions, CONFIG.compute)(filter_benchmark.build_shard(1, 2)).images
    assert share.case.endswith("captions of tiny")
    assert f"{len({each.text for each in image.expressions})} distinct captions" in share.note


@pytest.mark.slow
def test_scores_that_differ_are_not_timed(monkeypatch):
    monkeypatch.setattr(filter_benchmark, "largest_difference", lambda one, other: 0.5)
    with pytest.raises(ValueError, match=r"scores differ by 0\.5"):
        filter_benchmark.measure(CONFIG, num_images=1, max_masks=2, repeats=1, caption_repeats=1)


@pytest.mark.slow
def test_candidates_that_only_one_filter_keeps_are_counted(monkeypatch):
    (agreeing,) = filter_benchmark.compare_kept(CONFIG, num_images=2, max_masks=3)
    assert (agreeing["scenes"], agreeing["kept_in_one_alone"]) == (2, 0)
    assert 0 < agreeing["kept"] < agreeing["candidates"]
    monkeypatch.setattr(filter_benchmark.PlainFilter, "_scored", lambda self, image, cosines: spoilt(image))
    (differing,) = filter_benchmark.compare_kept(CONFIG, num_images=2, max_masks=3)
    assert differing["kept_in_one_alone"] == differing["kept"]


def spoilt(image):
    worst = {"uniqueness": 0.0, "correctness": 0.0, "distinctiveness": 0.0}
    return replace(image, expressions=tuple(replace(each, **worst) for each in image.expressions))


def test_the_difference_is_the_largest_of_any_score():
    shard = filter_benchmark.build_shard(1, 2)
    (image,) = shard.images
    assert len(image.masks) == 2

    def scored(*correctness):
        expressions = tuple(
            ExpressionRecord(text="a", target_mask_ids=("0",), samples=(), uniqueness=4.0, correctness=value)
            for value in correctness
        )
        return shard.with_images((replace(image, expressions=expressions),))

    difference = filter_benchmark.largest_difference
    assert difference(scored(0.5, 0.25), scored(0.5, 0.25)) == 0
    assert difference(scored(0.5, 0.25), scored(0.375, 0.25)) == 0.125


@pytest.mark.long
def test_the_command_line_writes_two_rows(tmp_path):
    path = tmp_path / "rows.json"
    arguments = ["--images", "1", "--masks", "2", "--repeats", "1", "--caption-repeats", "1", "--json", str(path)]
    filter_benchmark.main([*arguments, "--set", "captions.max_length=6"])
    assert len(json.loads(path.read_text(encoding="utf-8"))) == 2
