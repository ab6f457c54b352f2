"""What an image's masks were called, and how surely: the shares of their draws that name a thing or a quality.

The captioner draws dozens of times for each mask, on several crops and by several rules. What is true is drawn again
and again; what a decoder made up to be different stands alone. So shares tell which phrases fit a mask, which may, and
which do not, also of masks for which nobody has scored the phrase.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from schemas.shard import ExpressionRecord
from workers.composing.language import NounPhrase

ReadPhrase = Callable[[str, str | None], NounPhrase | None]


@dataclass(frozen=True, slots=True)
class Doubt:
    """How large a share of the draws decides.

    Attributes:
        min_noun: A mask is what at least this share names.
        max_noun: It surely is not what at most this share names.
        min_word: A mask has a quality that at least this share states.
        max_word: It surely has not what at most this share states.
    """

    min_noun: float
    max_noun: float
    min_word: float
    max_word: float


@dataclass(frozen=True, slots=True)
class Speech:
    """What was drawn for one mask.

    Attributes:
        nouns: Share of the draws that name each head noun.
        words: Share of the draws that state each other word.
        seen: The nouns that the masked crop itself looks most like, by the scorer; all of them where it does not say.
        phrases: The distinct noun phrases drawn, the most frequent first, with the share of the draws each has.
    """

    nouns: Mapping[str, float]
    words: Mapping[str, float]
    seen: frozenset[str]
    phrases: tuple[tuple[NounPhrase, float], ...]

    @property
    def noun(self) -> str | None:
        """What most draws call it, the first of equals; None without draws."""
        return max(self.nouns, key=lambda noun: self.nouns[noun], default=None)

    def surely(self, phrase: NounPhrase, doubt: Doubt) -> bool:
        """Return whether a phrase is true of the mask."""
        return (
            self.noun == phrase.noun
            and phrase.noun in self.seen
            and self.nouns[phrase.noun] >= doubt.min_noun
            and all(self.words.get(word, 0.0) >= doubt.min_word for word in phrase.words)
        )

    def maybe(self, phrase: NounPhrase, doubt: Doubt) -> bool:
        """Return whether a phrase may be true of the mask."""
        return self.nouns.get(phrase.noun, 0.0) > doubt.max_noun and all(
            self.words.get(word, 0.0) > doubt.max_word for word in phrase.words
        )


def speech_of(candidates: Iterable[ExpressionRecord], read: ReadPhrase) -> Speech:
    """Return what the candidates of one mask say of it; `read` takes the noun phrase from a caption."""
    nouns: Counter[str] = Counter()
    words: Counter[str] = Counter()
    phrases: Counter[NounPhrase] = Counter()
    looks: dict[str, float] = {}
    total = 0
    for candidate in candidates:
        count = len(candidate.samples)
        total += count
        if candidate.head_noun is not None:
            nouns[candidate.head_noun] += count
            # Of one mask it depends on the noun alone.
            looks[candidate.head_noun] = 0.0 if candidate.correctness is None else candidate.correctness
        phrase = read(candidate.text, candidate.head_noun)
        if phrase is None:
            continue
        phrases[phrase] += count
        for word in phrase.words:
            words[word] += count
    return Speech(
        {noun: count / total for noun, count in sorted(nouns.items())},
        {word: count / total for word, count in sorted(words.items())},
        frozenset(noun for noun, look in looks.items() if look == max(looks.values())),
        tuple((phrase, phrases[phrase] / total) for phrase in most_said(phrases)),
    )


def most_said(phrases: Mapping[NounPhrase, float]) -> list[NounPhrase]:
    """Return phrases by their weight, the largest first; of equals the shorter, then by the alphabet."""
    return sorted(phrases, key=lambda phrase: (-phrases[phrase], len(phrase.text), phrase.text))


def rivals_of(phrase: NounPhrase, target: int, speeches: Sequence[Speech], doubt: Doubt) -> list[int]:
    """Return the other masks, by their places, that a phrase may be true of."""
    return [n for n, speech in enumerate(speeches) if n != target and speech.maybe(phrase, doubt)]
