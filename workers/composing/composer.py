"""Composes expressions ("second cup from the left") from what the captions of an image's masks say.

`workers/stages.py`, `cli/refilter.py`, experiments call it after the scorer; `pipeline` asks for `refusal`. It must
not read `kept`, so that `refilter` composes the same expressions anew from masks, candidates and scores.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain, islice
from typing import Final, Literal, get_args

import numpy as np

from pseudoris.primitives import place_phrases
from pseudoris.primitives.counter_rng import key_of, permutation
from pseudoris.primitives.english import PEOPLE, plural_of
from pseudoris.primitives.head_nouns import head_noun, tokenise
from pseudoris.primitives.kinds import stands_on_ground
from pseudoris.primitives.noun_phrases import (
    NounPhrase,
    PhraseReader,
    content_of,
    english_among,
    is_sayable,
    may_be_said,
    noun_phrase,
    phrases_by_rules,
)
from pseudoris.primitives.place_phrases import Side
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.fitted import Floats, PosteriorConfig, WeightLine, line_weights
from pseudoris.schemas.keep_rule import COMPOSED_KINDS, KeepCondition, meets
from pseudoris.schemas.shard import SOURCE_COMPOSER, ExpressionRecord, ShardImage
from pseudoris.schemas.stage_settings import ComposedKind, ComposingConfig
from pseudoris.workers.composing.likelihood import IS_MEMBER, SIDES, Likelihood, likelihood_of
from pseudoris.workers.composing.posterior import drawn_by_mask
from pseudoris.workers.filtering.spacy_nouns import phrase_reader

FormName = Literal["words", "end", "end of so many", "side", "rank", "relation"]
_FORMS: Final[tuple[FormName, ...]] = get_args(FormName)
# An image gets at most this many groups, and texts of `easy_absences`: more would repeat masks, or teach little.
_MAX_PER_IMAGE: Final = 2
# At most this many texts of `near_absences` per mask, and of `easy_absences` per image, are tried, to bound the time.
_MAX_TRIES: Final = 16
# This sign marks the place in a phrase where an attribute or noun is replaced.
_GAP: Final = "_"
# Of a kind of which so many things without a mask are expected, none are counted: no "three dogs", no "second dog".
_MAX_MISSING: Final = 0.1
# Viewers do not look for a thing by the side of one that is so many times smaller: "the man to the left of the spoon".
_MOST_OF_ANCHOR: Final = 10.0
# Only rows up to this length state their number ("the left of the three"): longer ones often miss or double a mask.
_MAX_COUNTED: Final = 3


@dataclass(frozen=True, slots=True)
class _Form:
    """One expression of a mask, before its words are made."""

    name: FormName  # a mask gets at most `max_per_form` of each
    kind: ComposedKind
    log_right: float  # log of the probability that it is right
    noun: str
    text: Callable[[], str | None]  # returns the words; None if the language has none


def ranked_expressions(view: Likelihood, mask: int, mask_id: str) -> list[ExpressionRecord]:
    """Return up to `max_per_mask` expressions of a mask, at most `max_per_form` of one form.

    The likeliest needs a probability of `min_first`, every further one `min_further`. Different forms come before a
    second expression of the same form. The mask id decides which form comes first, so that no form dominates.
    """
    found: dict[str, ExpressionRecord] = {}
    turns: dict[str, tuple[int, int]] = {}
    used: Counter[FormName] = Counter()
    start = hashlib.sha256(mask_id.encode()).digest()[0]
    for form in sorted(_forms(view, mask), key=lambda each: -each.log_right):
        right = float(np.exp(form.log_right))
        if right <= (view.config.min_further if found else view.config.min_first):
            break
        text = form.text() if used[form.name] < view.config.max_per_form else None
        if text is not None and text not in found:
            used[form.name] += 1
            turns[text] = (used[form.name], (_FORMS.index(form.name) - start) % len(_FORMS))
            found[text] = ExpressionRecord(
                (mask_id,), text, (), form.kind, form.noun, confidence=right, source=SOURCE_COMPOSER
            )
    return sorted(found.values(), key=lambda each: turns[each.text])[: view.config.max_per_mask]


def ranked_groups(view: Likelihood, mask_ids: Sequence[str]) -> Iterator[ExpressionRecord]:
    """Yield expressions of several masks above `least_of_others`, the likeliest first: true of each and of no other."""
    found: dict[tuple[int, ...], tuple[float, ExpressionRecord]] = {}
    for phrase in dict.fromkeys(chain.from_iterable(view.phrases)):
        rivals = view.rivals(phrase)
        is_member = rivals > IS_MEMBER
        masks = tuple(np.flatnonzero(is_member).tolist())
        is_counted = len(masks) > 1 and view.posterior.hidden(phrase.noun) < _MAX_MISSING
        text = place_phrases.group(len(masks), phrase) if is_counted else None
        if text is None:
            continue
        log_right = np.log(rivals[is_member]).sum() + np.log1p(-rivals[~is_member]).sum()
        right = float(np.exp(log_right + view.log_unseen(phrase, len(masks))))
        if masks not in found or right > found[masks][0]:
            ids = tuple(mask_ids[mask] for mask in masks)
            found[masks] = (
                right,
                ExpressionRecord(ids, text, (), "group", phrase.noun, confidence=right, source=SOURCE_COMPOSER),
            )
    likeliest_first = sorted(found.values(), key=lambda pair: -pair[0])
    yield from (each for right, each in likeliest_first if right > view.config.least_of_others)


def near_absences(view: Likelihood, mask_ids: Sequence[str], seed: int) -> Iterator[ExpressionRecord]:
    """Yield at most one no-target expression a mask, above `least_of_others`: true of the mask, but for one part.

    "The red circle" in an image of a red star and a blue circle, or "the blue star" there: a trainer that looks for one
    of the parts finds a mask, and is wrong. Seed and mask id decide which of a mask's expressions are tried first.
    """
    # Maps a phrase with a gap to the words that likely phrases have there: "small _ #" (#: any noun) to red and blue.
    slots: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for phrase in chain.from_iterable(view.phrases):
        slots[_GAP].setdefault(phrase.noun, phrase.noun)
        for attribute in sorted((*phrase.before, *phrase.after), key=content_of):
            slots[_slot(phrase, content_of(attribute))].setdefault(content_of(attribute), attribute)
    said: set[str] = set()
    told = cache(view.posterior.told)
    for phrases, mask_id in zip(view.phrases, mask_ids, strict=True):
        swaps = [swap for phrase in phrases for swap in _swaps(view, phrase, slots, told)]
        # The key comes from the mask and not from its shard, so that another division into shards changes nothing.
        for place in permutation(key_of(seed, mask_id), len(swaps))[:_MAX_TRIES].tolist():
            found = _absence(view, swaps[place]())
            if found is not None and found.text not in said:
                said.add(found.text)
                yield replace(found, rival_mask_id=mask_id)
                break


def _swapped(phrase: NounPhrase, old: str, new: str) -> NounPhrase:
    """Return the phrase with another attribute in the place of the one whose words are `old`."""
    before, after = (
        tuple(new if content_of(each) == old else each for each in part) for part in (phrase.before, phrase.after)
    )
    return replace(phrase, before=before, after=after)


def _slot(phrase: NounPhrase, words: str) -> str:
    return replace(_swapped(phrase, words, _GAP), noun="#").text


def _swaps(
    view: Likelihood, phrase: NounPhrase, slots: Mapping[str, Mapping[str, str]], told: Callable[[str], Set[str]]
) -> Iterator[Callable[[], NounPhrase]]:
    """Yield what makes the phrase with another noun, or with an attribute that replaces one of its own."""
    # A new word comes from the same place of a likely phrase of the image: "red" may replace "small", "hat" may not.
    attributes = (*phrase.before, *phrase.after)
    # "Cup of coffee" is one name: there is no cake of coffee.
    is_whole = view.config.places == "photographs" and any(each.startswith("of ") for each in phrase.after)
    for noun in slots[_GAP] if attributes and not is_whole else ():
        is_kin = noun != phrase.noun and (noun in PEOPLE) == (phrase.noun in PEOPLE)
        if is_kin and all(may_be_said(each, told(noun)) for each in attributes):
            yield partial(replace, phrase, noun=noun)
    for word in sorted(phrase.words):
        instead = view.posterior.replaced_by.get(view.posterior.named(word), frozenset())
        here = slots[_slot(phrase, word)].items()
        others = (
            said
            for other, said in here
            if view.posterior.named(other) in instead and may_be_said(said, told(phrase.noun))
        )
        yield from (partial(_swapped, phrase, word, said) for said in others)


def easy_absences(
    view: Likelihood, bank: Sequence[tuple[NounPhrase, Set[str]]], captions: Iterable[str], key: int
) -> Iterator[ExpressionRecord]:
    """Yield phrases of a bank above `least_of_others` that share no word with `captions`, all those of the image.

    Beside each phrase of the bank are the plurals of its words and names. `key` decides the order. If nothing was read
    of any mask, none is yielded, because the image may show anything.
    """
    nouns = {noun for each in view.posterior.evidence for noun in each.nouns}
    said = _plurals((*captions, *nouns))
    drawn = (bank[place] for place in permutation(key, len(bank)).tolist() if nouns)
    unlike = (phrase for phrase, words in drawn if said.isdisjoint(words))
    found = (_absence(view, phrase) for phrase in islice(unlike, _MAX_TRIES))
    yield from (each for each in found if each is not None)


def _plurals(texts: Iterable[str]) -> set[str]:
    return {plural_of(word) for word in set(chain.from_iterable(map(tokenise, texts)))}


def _absence(view: Likelihood, phrase: NounPhrase) -> ExpressionRecord | None:
    right = float(np.exp(np.log1p(-view.blurred(phrase)).sum() + view.log_unseen(phrase)))
    if right <= view.config.least_of_others or not is_sayable(phrase):
        return None
    text = place_phrases.definite(phrase)
    return ExpressionRecord((), text, (), "none", phrase.noun, confidence=right, source=SOURCE_COMPOSER)


def _forms(view: Likelihood, mask: int) -> Iterator[_Form]:
    for phrase in view.phrases[mask]:
        if view.config.has_needed_words and phrase.words and not view.needs_all_words(mask, phrase):
            continue
        if "attribute" in view.config.kinds:
            log_right = view.log_right(mask, phrase, np.ones(len(view.positions)))
            yield _Form("words", "attribute", log_right, phrase.noun, partial(place_phrases.definite, phrase))
        if "position" in view.config.kinds:
            yield from _positions(view, mask, phrase)
        log_true = float(np.log(view.rivals(phrase)[mask]))
        for anchor, (named, log_named) in view.anchors.items() if "relation" in view.config.kinds else ():
            # No side is tried for an unlikely pair. In a crowded image this skips most pairs before masks are compared.
            for side in SIDES if view.is_likely(log_true + log_named) and _is_anchor(view, anchor, mask) else ():
                surely, maybe = view.beside[anchor][side]
                if surely[mask] and not (_is_far(view, side, phrase) or _is_far(view, side, named)):
                    log_right = view.log_right(mask, phrase, maybe) + log_named
                    say = partial(place_phrases.related, side, phrase, named)
                    yield _Form("relation", "relation", log_right, phrase.noun, say)


def _positions(view: Likelihood, mask: int, phrase: NounPhrase) -> Iterator[_Form]:
    row = view.members(phrase, mask)
    # "The leftmost circle" implies that there are other circles, so a mask without a row gets no such form.
    sides = [side for side in SIDES if not _is_far(view, side, phrase)]
    sides_of_row = sides if len(row) else []
    for side in sides_of_row:
        log_right = view.log_right(mask, phrase, 1.0 - view.lead[side][mask])
        yield _Form("end", "position", log_right, phrase.noun, partial(place_phrases.extreme, side, phrase))
    for side in sides:
        inside = view.inside[side]
        if inside[mask] > IS_MEMBER:
            log_right = view.log_right(mask, phrase, view.maybe_inside[side]) + float(np.log(inside[mask]))
            yield _Form("side", "position", log_right, phrase.noun, partial(place_phrases.at_side, side, phrase))
    for side in sides_of_row if view.posterior.hidden(phrase.noun) < _MAX_MISSING else ():
        ahead, behind = view.lead[side][row, mask], view.lead[side][mask, row]
        rank = 1 + int((ahead > behind).sum())
        # The last of a row is skipped, because it is the first from the other side, and so is the first of a long row.
        if rank == 1 + len(row) or (rank == 1 and len(row) >= _MAX_COUNTED):
            continue
        log_right = view.log_counted(mask, phrase, row, np.maximum(ahead, behind))
        if rank == 1:
            say = partial(place_phrases.extreme_of, side, 1 + len(row), phrase)
            yield _Form("end of so many", "position", log_right, phrase.noun, say)
        else:
            say = partial(place_phrases.ordinal, side, rank, phrase)
            yield _Form("rank", "position", log_right, phrase.noun, say)
    depths: Mapping[place_phrases.Depth, Floats] = {"front": view.nearer[mask], "back": view.nearer[:, mask]}
    # Judges often disagree on what is in front of a few, so no words choose them.
    for depth, lead in depths.items() if len(row) and len(sides) < len(SIDES) and not phrase.words else ():
        log_right = view.log_right(mask, phrase, 1.0 - lead)
        yield _Form("side", "position", log_right, phrase.noun, partial(place_phrases.at_depth, depth, phrase))


def _is_far(view: Likelihood, side: Side, phrase: NounPhrase) -> bool:
    """Return whether a side of the picture says how far away a thing is, as of what stands on the ground."""
    return view.config.places == "photographs" and side in ("top", "bottom") and stands_on_ground(phrase.noun)


def _is_anchor(view: Likelihood, anchor: int, mask: int) -> bool:
    """Return whether viewers would find a mask by its side of an anchor: not if one is on the other, or much larger."""
    item, other = view.positions[mask], view.positions[anchor]
    is_on = item.has_inside(other) or other.has_inside(item)
    return view.config.places == "drawings" or not (is_on or item.area > _MOST_OF_ANCHOR * other.area)


class Composer:
    """Composes expressions image by image. The same image gives the same expressions."""

    def __init__(
        self,
        config: ComposingConfig,
        posterior: PosteriorConfig,
        line: WeightLine | None = None,
        *,
        seed: int = 0,
        keep: Sequence[KeepCondition] = (),
        read: PhraseReader = phrases_by_rules,
    ) -> None:
        """Take the settings, the weights, and the line from confidence to weight; None: every weight is 1.

        `read` reads captions. `seed` and the image's id decide which absences are drawn. What does not meet `keep` is
        not kept.
        """
        self._keep = [each for each in keep if each.column in COMPOSED_KINDS]
        self.config, self.posterior, self._line, self._seed, self._read = config, posterior, line, seed, read
        texts = () if config.bank is None else config.bank.values.texts
        phrases = (noun_phrase(text, head_noun(text)) for text in texts)
        self._bank = tuple(
            (phrase, _plurals((phrase.noun, *phrase.words, *posterior.true_of(phrase.noun))))
            for phrase in phrases
            if phrase is not None and phrase.number != "several"
        )

    def __call__(self, image: ShardImage) -> ShardImage:
        """Return the image with composed expressions added last: those of one mask, then of several, then of none.

        Those that meet the rule are kept. Composed expressions that the image already had are replaced.
        """
        given = tuple(each for each in image.expressions if each.source != SOURCE_COMPOSER)
        distinct = self._distinct(image)
        if image.whole_picture:
            # They tell of things without a mask, so they take texts away, and none takes the place of these.
            before = self._distinct(replace(image, whole_picture=()))
            distinct = {key: each for key, each in distinct.items() if key in before}
        taken = {(each.target_mask_ids, each.text) for each in given}
        composed = [each for key, each in distinct.items() if key not in taken]
        met = [meets(self._keep, {each.kind: np.array([each.confidence])}, 1) for each in composed]
        weights = line_weights(self._line, np.array([each.confidence for each in composed], np.float64)).tolist()
        weighed = (
            replace(each, kept=bool(is_met[0]), weight=weight)
            for each, is_met, weight in zip(composed, met, weights, strict=True)
        )
        return replace(image, expressions=(*given, *weighed))

    def _distinct(self, image: ShardImage) -> dict[tuple[tuple[str, ...], str], ExpressionRecord]:
        """Return what can be composed, by masks and text."""
        view, kinds = likelihood_of(image, self.config, self.posterior, self._read), self.config.kinds
        mask_ids = [mask.mask_id for mask in image.masks]
        found = [each for number, name in enumerate(mask_ids) for each in ranked_expressions(view, number, name)]
        if "group" in kinds:
            found += islice(ranked_groups(view, mask_ids), _MAX_PER_IMAGE)
        if "none" in kinds:
            found += near_absences(view, mask_ids, self._seed)
            given = (each.text for each in image.expressions if each.source != SOURCE_COMPOSER)
            captions, key = (*given, *image.whole_picture), key_of(self._seed, image.image_id)
            found += islice(easy_absences(view, self._bank, captions, key), _MAX_PER_IMAGE)
        distinct: dict[tuple[tuple[str, ...], str], ExpressionRecord] = {}
        for each in found:
            distinct.setdefault((each.target_mask_ids, each.text), each)
        return distinct


def refusal(images: Iterable[ShardImage]) -> str | None:
    """Return what a user must know if the composer refuses more than half of the captions of some images; else None."""
    drawn = [[each.text for each in of_mask] for image in images for of_mask in drawn_by_mask(image).values()]
    num_refused = sum(len(texts) - sum(map(english_among(texts).__contains__, texts)) for texts in drawn)
    total = sum(map(len, drawn))
    if 2 * num_refused <= total:
        return None
    return (
        f"of {total} captions of the first shard {num_refused} are not in English, and composing leaves them out: "
        "use a captioner that writes English, or remove the section composing"
    )


def composer_of(config: RunConfig) -> Composer:
    """Return the composer of a run that composes."""
    filtering, lines = config.filtering, config.filtering.fitted_values.pair_weight
    if config.composing is None or filtering.fitted_values.posterior is None:
        raise ValueError("composing, or the posterior that it needs, is not set")
    line = None if lines is None else lines.composed
    posterior, seed, read = filtering.fitted_values.posterior, config.compute.seed, phrase_reader(filtering)
    return Composer(config.composing, posterior, line, seed=seed, keep=filtering.keep, read=read)
