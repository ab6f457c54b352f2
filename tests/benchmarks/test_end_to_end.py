"""The whole chain is compared with equals: the same masks, captions and scores on both sides."""

import json
from dataclasses import replace

import pytest

from benchmarks import end_to_end
from benchmarks.chain_sides import AuthorsChain, OurChain
from benchmarks.end_to_end import Settings
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
def test_under_random_weights_the_true_masks_are_captioned_and_a_part_is_timed():
    config = load_config("tiny", assignments=[*LITTLE, *RANDOM])
    shard = end_to_end.shard_of(config, 1, 3)
    part, num_kinds = Settings(max_masks=3, timed_images=1, timed_masks=2, kept_share=0.4).timed_part(shard)
    assert (len(shard.images[0].masks), len(part.images[0].masks), num_kinds) == (3, 2, 1)
    theirs = AuthorsChain(config, max_masks=3, kept_share=0.4).run(part, num_kinds)
    ours = OurChain(config, max_masks=3, kept_share=0.4).run(part)
    assert "22 captions equal" in end_to_end.agreement(theirs, ours)
    assert {sample.crop for each in theirs.shard.images[0].expressions for sample in each.samples} == {"masked"}


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
