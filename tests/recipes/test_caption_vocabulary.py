from pathlib import Path

import numpy as np
import pytest
from open_clip import get_tokenizer
from safetensors.torch import load_file

from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers import checkpoints
from recipes.caption_styles import caption_with_clauses, caption_with_names
from recipes.caption_vocabulary import MAX_TOKENS, caption_vocabulary, expression_vocabulary
from recipes.scene_texts import noisy_caption

VOCABULARY = caption_vocabulary()
TINY = Path(checkpoints.__file__).parent / "tiny"


def test_compact_tokens_are_the_tokenizers_renumbered():
    captions = ["a photo of a small dotted red circle with a tail", "the large aqua mushroom"]
    full = get_tokenizer("ViT-B-32")(captions)[:, :MAX_TOKENS]
    assert np.array(VOCABULARY.ids)[VOCABULARY.encode(captions).numpy()].tolist() == full.tolist()


@pytest.mark.parametrize("say", [noisy_caption, caption_with_names, caption_with_clauses])
def test_every_caption_of_a_style_fits_and_is_long_enough_to_end(say):
    rng = np.random.default_rng(0)
    captions = [say(item.attributes, rng) for p in range(400) for item in make_scene(Split.TRAIN, p).objects]
    assert caption_vocabulary(say).encode(captions).shape == (len(captions), MAX_TOKENS)
    assert min(len(caption.split()) for caption in captions) == 4


def test_expressions_have_words_that_captions_lack_and_the_same_tokens_for_the_others():
    expressions = expression_vocabulary()
    assert set(VOCABULARY.ids) < set(expressions.ids)
    for text in ("the left of the two dotted circles", "the second star from the left", "all fish below a red cross"):
        ids = np.array(expressions.ids)[expressions.encode([text]).numpy()]
        assert ids.tolist() == get_tokenizer("ViT-B-32")([text])[:, :MAX_TOKENS].tolist()
        with pytest.raises(ValueError, match="not in the vocabulary"):
            VOCABULARY.encode([text])


def test_the_shipped_captioner_and_clip_know_the_captions_tokens():
    for model in ("coca", "clip"):
        assert tuple(load_file(TINY / f"{model}.safetensors")["token_ids"].tolist()) == VOCABULARY.ids
