import math

import pytest
import torch
import torch.nn.functional as F

from recipes.caption_recipe import (
    caption_loss,
    contrastive_loss,
)
from recipes.caption_vocabulary import FULL_SIZE, caption_vocabulary

VOCABULARY = caption_vocabulary()


def content(*captions):
    return VOCABULARY.content(list(captions))


def test_without_repeated_texts_the_contrast_is_clips_own_loss():
    words = content("a red circle", "a blue star", "a green fish")
    cosines = torch.randn(3, 3).clamp(-1, 1)
    labels = torch.arange(3)
    plain = 0.5 * (F.cross_entropy(cosines * 10, labels) + F.cross_entropy(cosines.T * 10, labels))
    assert contrastive_loss(cosines, torch.tensor(10.0), words).item() == pytest.approx(plain.item(), abs=1e-6)


def test_a_compatible_shorter_caption_is_no_negative():
    words = content("a red circle", "a circle")
    low = contrastive_loss(torch.tensor([[0.9, 0.1], [0.1, 0.9]]), torch.tensor(10.0), words)
    high = contrastive_loss(torch.tensor([[0.9, 0.9], [0.9, 0.9]]), torch.tensor(10.0), words)
    assert low.item() == high.item() == 0.0


def test_the_constant_stands_for_the_unused_rows_of_the_full_vocabulary():
    tokens = VOCABULARY.encode(["a photo of a circle"])
    used = torch.rand(1, tokens.shape[1] - 1, len(VOCABULARY.ids)) + 1
    full = torch.zeros(1, tokens.shape[1] - 1, FULL_SIZE)
    full[..., list(VOCABULARY.ids)] = used
    targets = torch.tensor(VOCABULARY.ids)[tokens[:, 1:]]
    expected = F.cross_entropy(full.flatten(0, 1), targets.flatten(), ignore_index=0)
    loss = caption_loss(used, tokens, unused_logit=VOCABULARY.unused_logit)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-4)
    assert pytest.approx(math.log(FULL_SIZE - len(VOCABULARY.ids))) == VOCABULARY.unused_logit
