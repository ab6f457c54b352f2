import dataclasses

import numpy as np
import torch

from tests.builders.coca import SPECIAL, captions_config, image_crops, small_coca
from workers.captions.rules import choose_others
from workers.captions.sampling import SamplerRows
from workers.captions.towers import CachedDecoder, encode_crops
from workers.captions.vocabulary import Vocabulary
from workers.captions.walk import TreeWalk, WalkRules


class MeasuredDecoder(CachedDecoder):
    """Remembers how full its caches have been and how many levels it has computed."""

    peak_bytes = 0
    num_steps = 0

    def step(self, frontier, before):
        result = super().step(frontier, before)
        self.peak_bytes = max(self.peak_bytes, self.bytes_after(frontier, 0), self.allocated_bytes)
        self.num_steps += 1
        return result


def walk_with(budget_bytes, *, num_masks=5):
    model, config = small_coca(), captions_config()
    with torch.inference_mode():
        crops = encode_crops(model, image_crops(num_masks=num_masks).pixels[0])
        decoder = MeasuredDecoder(model)
        decoder.begin(crops.tokens)
        rows = SamplerRows(
            target=np.repeat(np.arange(num_masks), 4),
            top_k=np.tile(np.array([5, 9, 0, 0]), num_masks),
            top_p=np.tile(np.array([1.0, 1.0, 0.5, 0.8]), num_masks),
            uniform=np.random.default_rng(0).random((4 * num_masks, config.max_length)),
        )
        walk = TreeWalk(
            decoder,
            Vocabulary(model.text_decoder.text_projection, SPECIAL.eos),
            others=choose_others(crops.embeddings @ crops.embeddings.t(), config.sampling),
            rows=rows,
            rules=dataclasses.replace(WalkRules.of(config, SPECIAL, image_bytes=0), budget_bytes=budget_bytes),
            picture_of=np.arange(num_masks),
        )
        walk.run()
    return walk, decoder


def results_of(walk):
    sampled = [walk.sampled(row)[0] for row in range(20)]
    return sampled, [search.result().tokens for search in walk.searches]


def test_the_caches_stay_below_the_budget_whatever_it_is():
    # One row of this model: 5 pairs and 1 prefix, 11 levels, 512 and 768 bytes a node.
    least = 11 * (5 * 512 + 768)
    whole, decoder = walk_with(2**26)
    assert decoder.num_steps == 11
    for budget in (least, 2 * least, 5 * least):
        walk, decoder = walk_with(budget)
        assert decoder.peak_bytes <= budget
        assert decoder.num_steps > 11
        assert results_of(walk) == results_of(whole)


def test_the_tree_computes_a_shared_pair_once_and_counts_both():
    walk, _ = walk_with(2**26)
    # At the first level all 20 sampling rows read one prefix under 5 crops, 2 beams of 5 crops their own.
    assert walk.counts.num_computed < walk.counts.num_asked
    # Of these, as caches without a tree would do it: 20 rows under 5 crops each, and 5 times 2 beams under their own.
    first_level = 20 * 5 + 5 * 2
    assert walk.counts.num_asked - walk.counts.num_computed >= first_level - 5


def test_below_one_rows_caches_the_walk_goes_row_by_row():
    walk, _ = walk_with(1)
    assert results_of(walk) == results_of(walk_with(2**26)[0])
