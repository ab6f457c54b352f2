"""What is known of an image's masks: where each lies, how others lie to it, and a cache that changes nothing."""

from __future__ import annotations

import os
from dataclasses import fields

import pytest
import torch

from pseudoris.primitives import rle
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.training.chooser.candidate_masks import CandidateStore, mask_geometry, pair_geometry
from pseudoris.training.chooser.chooser_training import mirrored
from tests.training.chooser.builders import small_config


def masks(*boxes: tuple[int, int, int, int]) -> torch.Tensor:
    """Return rectangles (x0, y0, x1, y1) as masks (N, 20, 40) bool."""
    found = torch.zeros(len(boxes), 20, 40, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(found, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return found


def test_the_geometry_of_masks_and_pairs_is_in_shares_of_their_image():
    counts = rle.encode(masks((0, 0, 20, 20), (5, 5, 10, 10), (30, 0, 40, 20)))
    geometry = mask_geometry(counts, (20, 40))
    assert geometry[:, :3].tolist() == [[-0.5, 0.0, 0.5], [-0.625, -0.25, 0.03125], [0.75, 0.0, 0.25]]
    pairs = pair_geometry(geometry, counts, (20, 40))
    assert pairs[0, 2, 0] == -pairs[2, 0, 0] == 1.25
    assert pairs[1, 0, 6:].tolist() == [1.0, 25 / 400]
    assert pairs[0, 1, 6:].tolist() == [25 / 400, 1.0]


def test_a_mirrored_image_is_what_is_computed_of_mirrored_masks(store, pixels):
    candidates = store.of("scene", pixels)
    flipped = rle.encode(candidates.decoded().flip(2))
    geometry = mask_geometry(flipped, candidates.size)
    found = mirrored(candidates)
    torch.testing.assert_close(found.geometry, geometry)
    torch.testing.assert_close(found.pairs, pair_geometry(geometry, flipped, candidates.size))


def test_what_the_folder_keeps_is_what_is_made_anew(tmp_path, pixels, towers):
    config = small_config(tmp_path)

    def opened() -> CandidateStore:
        return CandidateStore(config, towers)

    made = opened().of("a", pixels)
    kept = opened().held("a")
    for each in fields(made):
        one, other = getattr(made, each.name), getattr(kept, each.name)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    (file,) = tmp_path.rglob("*.safetensors")
    whole = file.read_bytes()
    for damage in (b"", b"x" * 90, whole[:-1]):
        file.write_bytes(damage)
        assert opened().held("a") is None
    opened().of("a", pixels)
    assert file.read_bytes() == whole


@pytest.mark.parametrize(
    "word",
    [
        "towers.layers=[1, 4]",
        "towers.weights.uri=random:1",
        'candidates.assignments=["masks.points_per_side=5"]',
        'candidates.assignments=["filtering.context_scale=1.5"]',
    ],
)
def test_candidates_of_other_settings_are_never_taken(tmp_path, towers, word):
    # The word is the only difference: it would replace the assignments of a small config, which are of masks.
    first, other = (small_config(tmp_path, ["candidates.assignments=[]", *words]) for words in ((), (word,)))
    digests = {CandidateStore(each, towers).digest for each in (first, other)}
    assert len(digests) == 2


@pytest.mark.parametrize("kind", ["link", "pipe"])
@pytest.mark.parametrize("ending", ["safetensors", "{pid}.unfinished"])
def test_what_others_planted_in_the_cache_is_named_and_not_written_through(tmp_path, towers, kind, ending):
    config = small_config(tmp_path / "cache")
    store = CandidateStore(config, towers)
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    image = sha256_hex(b"plain")
    planted = tmp_path / "cache" / store.digest[:16] / image[:2] / f"{image}.{ending.format(pid=os.getpid())}"
    planted.parent.mkdir(parents=True)
    if kind == "link":
        planted.symlink_to(mine)
    else:
        os.mkfifo(planted)
    with pytest.raises(ConfigError, match=rf"{planted.name} is a {kind}"):
        store.of("plain", torch.full((3, 48, 64), 200, dtype=torch.uint8))
    assert mine.read_bytes() == b"mine"


def test_masks_that_no_sam_proposes_are_refused(config, store):
    candidates = config.candidates.model_copy(update={"assignments": ("masks.engine=ready",)})
    ready = config.model_copy(update={"candidates": candidates})
    with pytest.raises(ConfigError, match=r"masks\.engine is 'ready'.*Give masks\.engine=sam"):
        CandidateStore(ready, store.towers)
