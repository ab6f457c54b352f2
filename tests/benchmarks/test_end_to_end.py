"""The whole chain is compared with equals: the same masks, captions and scores on both sides."""

import json
from dataclasses import replace

import pytest

from benchmarks import end_to_end
from benchmarks.chain_sides import AuthorsChain, OurChain, Spent
from benchmarks.end_to_end import Settings, Timed
from pseudoris.schemas.config_layers import load_config

LITTLE = ["masks.points_per_side=8", "masks.crop_n_layers=0", "captions.context_scales=[1.0]", "captions.max_length=6"]
RANDOM = [f"{stage}.weights={{uri: 'random:0'}}" for stage in ("masks", "captions", "filtering")]
CHAIN = {"max_masks": 2, "kept_share": 0.4}


@pytest.fixture(scope="module")
def trained():
    """Both sides of one image by the trained models, and the authors' chain itself."""
    config = load_config("tiny", assignments=LITTLE)
    shard = end_to_end.shard_of(config, 1, 2)
    authors = AuthorsChain(config, **CHAIN)
    return authors, authors.run(shard), OurChain(config, **CHAIN).run(shard)


@pytest.mark.slow
def test_both_sides_make_the_same_masks_captions_and_scores(trained):
    _, theirs, ours = trained
    assert len(ours.shard.images[0].masks) == 2
    assert theirs.proposals == ours.proposals
    # Two masks, two crop kinds, a beam and ten samples.
    assert "44 of 44 captions equal" in end_to_end.agreement(theirs, ours)
    assert set(theirs.spent) == {"masks", "sampling", "beams", "filter, batched", "filter, pairwise"}
    assert set(ours.spent) == {"masks", "captions", "filter"}


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["text", "correctness", "proposals"])
def test_sides_that_differ_are_not_compared(trained, changed):
    _, theirs, ours = trained
    (image,) = ours.shard.images
    new = {"text": "zebra", "correctness": 0.0}.get(changed)
    if new is None:
        ours = replace(ours, proposals=((),))
    else:
        expressions = tuple(replace(each, **{changed: new}) for each in image.expressions)
        ours = replace(ours, shard=ours.shard.with_images((replace(image, expressions=expressions),)))
    with pytest.raises(ValueError, match="the two sides differ"):
        end_to_end.agreement(theirs, ours)


@pytest.mark.slow
def test_twice_the_images_are_counted_as_twice_the_time(trained):
    authors, theirs, ours = trained
    (image,) = ours.shard.images
    twice = ours.shard.with_images((image, image))
    counted = authors.counted(theirs, None, twice)
    # Batched CLIP is timed again, and takes other seconds.
    assert counted.pop("filter, batched").wall_s > 0
    assert len(counted) == 4
    for step, spent in counted.items():
        assert (spent.wall_s, spent.cpu_s) == pytest.approx(
            (2 * theirs.spent[step].wall_s, 2 * theirs.spent[step].cpu_s)
        )


@pytest.mark.slow
def test_under_random_weights_the_true_masks_are_captioned_and_a_part_is_timed():
    config = load_config("tiny", assignments=[*LITTLE, *RANDOM])
    shard = end_to_end.shard_of(config, 1, 3)
    part, num_kinds = Settings(max_masks=3, timed_images=1, timed_masks=2, kept_share=0.4).timed_part(shard)
    assert (len(shard.images[0].masks), len(part.images[0].masks), num_kinds) == (3, 2, 1)
    theirs = AuthorsChain(config, max_masks=3, kept_share=0.4).run(part, num_kinds)
    ours = OurChain(config, max_masks=3, kept_share=0.4).run(part)
    assert "22 captions equal" in end_to_end.agreement(theirs, ours)
    assert {sample.crop for each in theirs.shard.images[0].expressions for sample in each.samples} == {"masked"}


def test_the_rows_are_the_chain_both_ways_and_its_steps():
    def timed(peak_pss_bytes, **wall_s):
        return Timed({step: Spent(each, 2 * each) for step, each in wall_s.items()}, peak_pss_bytes, None)

    of_clip = {"filter, pairwise": 12.0, "filter, batched": 2.0}
    theirs = timed(20, masks=4.0, sampling=25.0, beams=5.0, **of_clip)
    ours = timed(10, masks=2.0, captions=1.0, filter=1.0)
    rows = end_to_end.rows_of("case", theirs, ours, "note")
    assert [row["ratio"] for row in rows] == [11.5, 9.0, 2.0, 30.0, 12.0, 2.0]
    assert [row["cpu_ratio"] for row in rows] == [row["ratio"] for row in rows]
    assert {(row["baseline_peak_pss_bytes"], row["peak_pss_bytes"]) for row in rows} == {(20, 10)}


def test_parts_of_what_trained_models_find_are_not_counted():
    with pytest.raises(SystemExit):
        end_to_end.main(["--timed-masks", "2"])


@pytest.mark.long
def test_the_command_line_writes_rows_with_the_promised_keys(tmp_path):
    path = tmp_path / "rows.json"
    arguments = [f"--set={assignment}" for assignment in [*LITTLE, *RANDOM]]
    end_to_end.main([*arguments, "--images", "1", "2", "--repeats", "1", "--timed-masks", "1", "--json", str(path)])
    rows = json.loads(path.read_text(encoding="utf-8"))
    # Two shards, two memory settings, six rows each.
    assert len(rows) == 24
    assert {"case", "baseline_s", "ours_s", "ratio", "peak_pss_bytes", "note"} <= rows[0].keys()
    assert "COUNTED" in rows[0]["note"]
