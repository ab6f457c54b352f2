"""The byte-pair encoder of CoCa and CLIP: one for each process."""

from __future__ import annotations

import functools

from open_clip import tokenizer


@functools.cache
def byte_pair_encoder() -> tokenizer.SimpleTokenizer:
    """Return open_clip's tokenizer of 49,408 tokens; only what depends on no context's length may be used.

    open_clip makes one when it is imported. Another one would hold 22 MB, and takes 0.1 s to read its merges.
    """
    return getattr(tokenizer, "_tokenizer", None) or tokenizer.SimpleTokenizer()
