import numpy as np
import pytest
import torch

from pseudoris.workers.captions.cached_towers import CachedCocaTowers
from pseudoris.workers.captions.captioner import encode_crops
from pseudoris.workers.captions.distinctive import SamplerRows, choose_others
from pseudoris.workers.captions.prefix_tree_decoder import PrefixTreeDecoding
from pseudoris.workers.captions.vocabulary_logits import Vocabulary
from tests.builders.coca import SPECIAL, captions_config, image_crops, small_coca


class MeasuredTowers(CachedCocaTowers):
    """Remembers how full its caches have been and how many levels it has computed."""

    peak_bytes = 0
    num_steps = 0

    def step(self, level, before):
        result = super().step(level, before)
        self.peak_bytes = max(self.peak_bytes, self.bytes_after(level, 0))
        self.num_steps += 1
        return result


def decode_with(budget_bytes, *, num_masks=5):
    model, config = small_coca(), captions_config()
    with torch.inference_mode():
        embeddings, tokens = encode_crops(model, image_crops(num_masks=num_masks).pixels[0])
        towers = MeasuredTowers(model)
        towers.attend_to(tokens)
        rows = SamplerRows(
            target=np.repeat(np.arange(num_masks), 4),
            top_k=np.tile(np.array([5, 9, 0, 0]), num_masks),
            top_p=np.tile(np.array([1.0, 1.0, 0.5, 0.8]), num_masks),
            uniform=np.random.default_rng(0).random((4 * num_masks, config.max_length)),
        )
        decoding = PrefixTreeDecoding(
            towers,
            Vocabulary(model.text_decoder.text_projection, SPECIAL.eos),
            others=choose_others(embeddings @ embeddings.t(), config.sampling),
            rows=rows,
            config=config,
            special=SPECIAL,
            budget_bytes=budget_bytes,
            unique_crop_of=np.arange(num_masks),
        )
        decoding.run()
    return decoding, towers


def results_of(decoding):
    sampled = [decoding.sampled(row)[0] for row in range(20)]
    return sampled, [search.result().tokens for search in decoding.searches]


@pytest.mark.slow
def test_the_caches_stay_below_the_budget_whatever_it_is():
    # One row of this model: 5 pairs and 1 prefix, 11 levels, 512 and 768 bytes a node.
    least = 11 * (5 * 512 + 768)
    whole, towers = decode_with(2**26)
    assert towers.num_steps == 11
    assert results_of(decode_with(1)[0]) == results_of(whole)
    for budget in (least, 2 * least, 5 * least):
        decoding, towers = decode_with(budget)
        assert max(towers.peak_bytes, decoding.peak_cache_bytes) <= budget
        assert towers.num_steps > 11
        assert results_of(decoding) == results_of(whole)
