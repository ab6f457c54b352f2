import numpy as np
import pytest
from open_clip import get_tokenizer

from synthworld.captions import noisy_caption
from synthworld.scenes import Split, make_scene
from synthworld.training.vocabulary import MAX_TOKENS, caption_vocabulary

VOCABULARY = caption_vocabulary()


def test_compact_tokens_are_the_tokenizers_renumbered():
    captions = ["a photo of a small dotted red circle with a tail", "the large aqua mushroom"]
    full = get_tokenizer("ViT-B-32")(captions)[:, :MAX_TOKENS]
    assert np.array(VOCABULARY.ids)[VOCABULARY.encode(captions).numpy()].tolist() == full.tolist()


def test_padding_is_first_and_the_end_token_last():
    assert (VOCABULARY.ids[0], VOCABULARY.ids[-1]) == (0, 49407)
    assert list(VOCABULARY.ids) == sorted(set(VOCABULARY.ids))


def test_every_noisy_caption_fits():
    rng = np.random.default_rng(0)
    captions = [noisy_caption(item.attributes, rng) for p in range(40) for item in make_scene(Split.TRAIN, p).objects]
    assert VOCABULARY.encode(captions).shape == (len(captions), MAX_TOKENS)


def test_foreign_words_and_long_captions_are_refused():
    with pytest.raises(ValueError, match="not in the vocabulary"):
        VOCABULARY.encode(["a photo of a zebra"])
    with pytest.raises(ValueError, match="at most 16"):
        VOCABULARY.encode(["a " * 20])
