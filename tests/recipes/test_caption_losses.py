import math

import pytest
import torch
import torch.nn.functional as F

from recipes.caption_recipe import (
    WordHead,
    caption_loss,
    contrastive_loss,
    text_relations,
)
from recipes.caption_vocabulary import FULL_SIZE, caption_vocabulary

VOCABULARY = caption_vocabulary()


def content(*captions):
    return VOCABULARY.content(list(captions))


def test_texts_are_compared_by_their_content_words_alone():
    equal, unsettled = text_relations(
        content("a photo of a red circle", "the red circle", "a circle", "a blue circle", "a red star")
    )
    assert equal[0].tolist() == [True, True, False, False, False]
    assert unsettled[0].tolist() == [False, False, True, False, False]
    assert torch.equal(unsettled, unsettled.T)


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


def test_used_tokens_are_pushed_above_the_tied_unused_ones():
    tokens = VOCABULARY.encode(["a photo of a circle"])
    logits = torch.zeros(1, tokens.shape[1] - 1, len(VOCABULARY.ids), requires_grad=True)
    with torch.no_grad():
        logits[..., 5] = -3.0
    caption_loss(logits, tokens, unused_logit=0.0).backward()
    assert logits.grad[0, 0, 5] < 0


def test_the_word_head_learns_what_the_captions_say():
    torch.manual_seed(0)
    head = WordHead(4, 8, content("a circle").shape[1])
    tokens, words = torch.randn(6, 4, 8), content(*["a red circle", "a blue star"] * 3)
    adam = torch.optim.Adam(head.parameters(), lr=0.05)
    first = head(tokens, words).item()
    for _ in range(30):
        adam.zero_grad()
        head(tokens, words).backward()
        adam.step()
    # Two words share the mass of a caption: log 2 is the floor.
    assert math.log(2) - 1e-3 < head(tokens, words).item() < first / 2
