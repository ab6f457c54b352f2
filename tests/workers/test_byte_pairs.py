"""The byte-pair encoder is open_clip's own, once a process."""

from open_clip import tokenizer

from pseudoris.workers.clip_tokenizer import byte_pair_encoder


def test_the_encoder_is_the_one_that_open_clip_has_made():
    assert byte_pair_encoder() is tokenizer._tokenizer


def test_it_encodes_as_a_new_one_does():
    text = "the small dotted red circle, left of 2 Übersquares!"
    new = tokenizer.SimpleTokenizer()
    assert byte_pair_encoder().encode(text) == new.encode(text)
    assert byte_pair_encoder().decode(new.encode(text)) == new.decode(new.encode(text))
