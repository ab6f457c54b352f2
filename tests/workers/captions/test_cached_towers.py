import numpy as np
import pytest
import torch

from benchmarks.plain_captioner import ReferenceEngine
from pseudoris.schemas.errors import ConfigError
from pseudoris.workers.captions.cached_towers import CachedCocaTowers, cached_attention
from pseudoris.workers.captions.captioner import encode_crops
from pseudoris.workers.captions.decoding_rules import extend
from tests.builders.coca import SPECIAL, VOCABULARY, image_crops, small_coca

# Rows of tokens after SOT; 0 is what open_clip's text mask takes for padding, 38 and 39 are SOT and EOS.
TOKENS = np.array(
    [[7, 0, 9, 3, 3, 5], [7, 0, 4, 1, 2, 0], [7, 8, 9, 3, 38, 0], [0, 0, 0, 6, 39, 1], [7, 8, 9, 3, 1, 1]]
)


def largest_difference(model):
    """Return the largest difference of logits to open_clip's forward, over prefixes of every length."""
    _, crop_tokens = encode_crops(model, image_crops(num_masks=3, dtype=next(model.parameters()).dtype).pixels[0])
    decoder = CachedCocaTowers(model)
    decoder.attend_to(crop_tokens)
    plain = ReferenceEngine(model, SPECIAL, None, seed=0)
    needs = np.ones((len(TOKENS), 3), dtype=np.bool_)
    needs[1] = [True, False, False]
    level, cache_index, worst = None, None, 0.0
    parents, tokens = np.zeros(len(TOKENS), dtype=np.int64), np.full(len(TOKENS), SPECIAL.sot)
    prefixes = tokens[:, None]
    for column in [*TOKENS.T, None]:
        level = extend(level, parents, tokens, needs)
        hidden, cache_index = decoder.step(level, cache_index)
        logits = hidden @ model.text_decoder.text_projection
        for row, crop in np.argwhere(needs):
            expected = plain.logits(crop_tokens[crop : crop + 1], [prefixes[row].tolist()])[0]
            found = logits[level.pair_of[level.row_prefix[row], crop]]
            worst = max(worst, float((found - expected).abs().max()))
        if column is not None:
            parents, tokens = level.row_prefix, column
            prefixes = np.concatenate((prefixes, column[:, None]), axis=1)
    return worst


@pytest.mark.parametrize(
    "architecture",
    [
        {},
        {"quick_gelu": True},
        {"text": {"ls_init_value": 0.3}, "decoder": {"ls_init_value": 0.5}},
        {"decoder": {"layers": 1}},
        {"decoder": {"heads": 8, "layers": 3}, "text": {"layers": 1}},
    ],
    ids=["default", "quick_gelu", "layer_scale", "one_layer", "other_depths"],
)
def test_cached_steps_equal_open_clips_full_forward(architecture):
    assert largest_difference(small_coca(**architecture)) < 1e-10


def test_the_corrected_padding_mask_is_followed_too():
    model = small_coca()
    model.text.correct_cls_mask = True
    assert largest_difference(model) < 1e-10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"no_causal_mask": True}, "no_causal_mask=true"),
        ({"embed_cls": False}, "embed_cls=false"),
        ({"qk_norm": True}, "custom attention blocks"),
    ],
)
def test_a_text_tower_that_cannot_be_decoded_step_by_step_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        CachedCocaTowers(small_coca(text=text))


def test_another_kind_of_text_tower_is_refused():
    model = small_coca()
    model.text = torch.nn.Linear(2, VOCABULARY)
    with pytest.raises(ConfigError, match="the text tower is a Linear"):
        CachedCocaTowers(model)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.parametrize("is_hiding", [True, False])
def test_on_a_gpu_attention_is_what_it_is_on_a_cpu(is_hiding):
    q, k, v = (random(4, 300, length, 16, seed=seed).float() for seed, length in enumerate((1, 9, 9)))
    is_hidden = (torch.arange(9) == 3).expand(300, 9)[None, :, None] if is_hiding else None
    on_gpu = cached_attention(q.cuda(), k.cuda(), v.cuda(), None if is_hidden is None else is_hidden.cuda())
    torch.testing.assert_close(on_gpu.cpu(), cached_attention(q, k, v, is_hidden), rtol=1e-4, atol=1e-4)


def test_crops_of_more_than_a_pass_keep_their_own_embeddings():
    model, pixels = small_coca(), image_crops(num_masks=70).pixels[0]
    embeddings, tokens = encode_crops(model, pixels)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(70, dtype=torch.float64))
    torch.testing.assert_close(tokens[66:68], encode_crops(model, pixels[66:68])[1])
