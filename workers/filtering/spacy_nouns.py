"""Head nouns by spaCy's parser, as the authors' scripts find them; needs the `spacy` extra and a language model."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, Final

from schemas.errors import ConfigError
from workers.filtering.noun_lexicon import PARTS, PICTURES, QUANTITIES

SPACY_MODEL: Final = "en_core_web_sm"
_INSTALL: Final = f"pip install -e '.[spacy]' && python -m spacy download {SPACY_MODEL}"
_NO_SPACY: Final = f"filtering.nouns=spacy, but spaCy is not installed. Run: {_INSTALL}"
_NO_MODEL: Final = f"filtering.nouns=spacy, but its language model {SPACY_MODEL} is not installed. Run: {_INSTALL}"


def check_spacy() -> str:
    """Return the versions of spaCy and its language model, without the seconds that loading them takes.

    Raises:
        ConfigError: One of them is not installed; the message is the command that installs them.
    """
    if find_spec("spacy") is None:
        raise ConfigError(_NO_SPACY)
    try:
        return f"spaCy {version('spacy')}, {SPACY_MODEL} {version(SPACY_MODEL)}"
    except PackageNotFoundError as error:
        raise ConfigError(_NO_MODEL) from error


class SpacyNouns:
    """Expression → head noun: the root of the noun chunk that holds the sentence's root, else of its first child's."""

    def __init__(self) -> None:
        """Load the parser.

        Raises:
            ConfigError: spaCy or its language model is not installed; the message is the command that installs them.
        """
        try:
            import spacy
        except ImportError as error:
            raise ConfigError(_NO_SPACY) from error
        try:
            self._parse = spacy.load(SPACY_MODEL)
        except OSError as error:
            raise ConfigError(_NO_MODEL) from error

    def __call__(self, text: str) -> str | None:
        """Return the head noun; None where the parse has no noun chunk at its root or below it."""
        return head_of_parse(self._parse(text))


def head_of_parse(parsed: Any) -> str | None:
    """Return the head noun of a parsed `spacy.tokens.Doc`, or None; pictures, quantities and parts are passed over."""
    root = next((token for token in parsed if token.head == token), None)
    if root is None:
        return None
    chunks = list(parsed.noun_chunks)
    for token in (root, *root.children):
        head = next((chunk.root for chunk in chunks if token in chunk), None)
        if head is not None:
            return str(_passed_over(head).lower_)
    return None


def _passed_over(head: Any) -> Any:
    """The object of `of` behind a picture, quantity or part, as often as one follows."""
    while head.lower_ in PICTURES | QUANTITIES | PARTS:
        behind = next((c for of in head.children if of.lower_ == "of" for c in of.children if c.dep_ == "pobj"), None)
        if behind is None:
            break
        head = behind
    return head
