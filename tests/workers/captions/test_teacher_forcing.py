"""Teacher-forced log-probabilities against open_clip's own forward, in double precision."""

import numpy as np
import pytest
import torch

from pseudoris.schemas.errors import ImageError
from pseudoris.workers.captions.cached_towers import CachedCocaTowers
from pseudoris.workers.captions.engine import encode_crops
from pseudoris.workers.captions.listener import TeacherForcing, TextPrefixes, TokenRows
from pseudoris.workers.captions.vocabulary_logits import Vocabulary
from tests.builders.coca import CONTEXT_LENGTH, SPECIAL, image_crops, small_coca

# Equal texts, shared prefixes, one text inside another, an empty one, and the padding token inside a prefix.
TEXTS = [[7, 8, 9], [7, 8], [7, 8, 9], [3], [], [11, 0, 12, 0, 13], [7, 8, 9, 30, 31, 32, 33, 34], [5, 6]]
EVERYTHING = 2**30


def forcing_of(model, crops, *, budget_bytes=EVERYTHING):
    decoder = CachedCocaTowers(model)
    decoder.set_image_tokens(encode_crops(model, crops).tokens)
    vocabulary = Vocabulary(model.text_decoder.text_projection.detach(), SPECIAL.eos)
    return TeacherForcing(decoder, vocabulary, SPECIAL, budget_bytes=budget_bytes)


def prefixes_of(texts, own, num_unique_crops, *, asked=None, give_up_at=-np.inf):
    rows = TokenRows.of(texts, eos=SPECIAL.eos, max_prefix_length=CONTEXT_LENGTH)
    own_of = np.eye(num_unique_crops, dtype=np.int64)[own]
    asked = np.ones((len(texts), num_unique_crops), bool) if asked is None else asked
    return TextPrefixes(rows, asked, own_of, np.full(len(texts), give_up_at, np.float64))


def plain_sum(model, crop, text):
    """Return Σ log softmax at each token, from one forward of the whole text."""
    image = model(crop[None])["image_embs"]
    prefix = torch.tensor([[SPECIAL.sot, *text]])
    _, states = model._encode_text(prefix)
    logits = model.text_decoder(image, states)[0].log_softmax(dim=1)
    return float(sum(logits[place, token] for place, token in enumerate([*text, SPECIAL.eos])))


@pytest.mark.parametrize("num_dead", [0, 20])
def test_a_text_is_as_likely_as_open_clips_own_forward_says(num_dead):
    model, crops = small_coca(num_dead=num_dead), image_crops(num_masks=3).pixels[0]
    sums = forcing_of(model, crops).read(prefixes_of(TEXTS, [0, 1, 2, 0, 1, 2, 0, 1], 3))
    due = [[plain_sum(model, crop, text) for crop in crops] for text in TEXTS]
    assert sums == pytest.approx(np.array(due), abs=1e-9)


def test_a_small_budget_gives_the_same_and_crops_that_are_not_asked_give_nothing():
    model, crops = small_coca(), image_crops(num_masks=3).pixels[0]
    own = [0, 1, 2, 0, 1, 2, 0, 1]
    asked = np.eye(3, dtype=bool)[own]
    asked[:, 2] = True
    whole = forcing_of(model, crops).read(prefixes_of(TEXTS, own, 3))
    narrow = forcing_of(model, crops, budget_bytes=1).read(prefixes_of(TEXTS, own, 3, asked=asked))
    assert narrow == pytest.approx(np.where(asked, whole, 0.0), abs=1e-9)


def test_a_hopeless_text_is_read_to_its_end_under_its_own_crop_alone():
    model, crops = small_coca(), image_crops(num_masks=3).pixels[0]
    own = [0, 1, 2, 0, 1, 2, 0, 1]
    plain = forcing_of(model, crops)
    whole = plain.read(prefixes_of(TEXTS, own, 3))
    rows = np.arange(len(TEXTS))
    bound = float(np.median(whole[rows, own]))
    early = forcing_of(model, crops)
    sums = early.read(prefixes_of(TEXTS, own, 3, give_up_at=bound))
    assert sums[rows, own] == pytest.approx(whole[rows, own], abs=1e-9)
    is_hopeful = whole[rows, own] > bound
    assert 0 < is_hopeful.sum() < len(TEXTS)
    assert sums[is_hopeful] == pytest.approx(whole[is_hopeful], abs=1e-9)
    assert early.num_computed < plain.num_computed


def test_a_text_longer_than_the_context_is_cut_and_ends_there():
    long = [7] * 40
    rows = TokenRows.of([long, [7]], eos=SPECIAL.eos, max_prefix_length=CONTEXT_LENGTH)
    assert rows.lengths.tolist() == [CONTEXT_LENGTH, 2]
    model, crops = small_coca(), image_crops(num_masks=1).pixels[0]
    sums = forcing_of(model, crops).read(prefixes_of([long], [0], 1))
    assert sums[0, 0] == pytest.approx(plain_sum(model, crops[0], [7] * (CONTEXT_LENGTH - 1)), abs=1e-9)


def test_scores_beyond_the_precision_are_the_images_fault():
    model, crops = small_coca(), image_crops(num_masks=1).pixels[0]
    reader = forcing_of(model, crops * torch.nan)
    with pytest.raises(ImageError, match="beyond the range of its precision"):
        reader.read(prefixes_of([[7, 8]], [0], 1))
