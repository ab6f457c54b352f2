"""How well captions are read: heads, what describes them, and whether they are one thing, against labels of a reader.

    python -m evidence.experiments.english_reading LABELS [--json FILE] [--nouns spacy]

LABELS has a JSON object a line: `source`, `caption`, `head`, `describing` (texts, one an attribute), and `kind` (`one`,
`several`, `stuff` or `none`; a pair of scissors is `one`). Describing words are compared without articles, prepositions
and pronouns, verbs in their -ing form. `reached` counts, of the captions about one thing that is described, those of
which a phrase with a describing word reaches `Likelihood.phrases`, where all draws of a mask are that caption.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer

from evidence.experiments.quality.markdown_cells import markdown_table
from pseudoris.primitives import english as lexicon
from pseudoris.primitives.head_nouns import progressive, tokenise
from pseudoris.primitives.noun_phrases import NounPhrase, PhraseReader
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.fitted import Floats
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord
from pseudoris.workers.composing.composer import composer_of
from pseudoris.workers.composing.likelihood import Likelihood, MaskPosition
from pseudoris.workers.composing.posterior import Posterior, evidence_of
from pseudoris.workers.filtering.spacy_nouns import NounFinder, noun_finder, phrase_reader

_NO_CONTENT = lexicon.DETERMINERS | lexicon.PREPOSITIONS | lexicon.CONJUNCTIONS | lexicon.NUMERALS | lexicon.POSSESSIONS
_SILENT = _NO_CONTENT | lexicon.PERSONAL_PRONOUNS | lexicon.EMPTY_PRONOUNS | {"'s", "wearing", "wears"}
_COLUMNS = ("captions", "head", "precision", "recall", "one or several", "reached", "bare noun")
_RESAMPLES: Final = 1000
_COMPOSER: Final = composer_of(load_config("tiny-composed"))


def content(attributes: Sequence[str]) -> set[str]:
    """Return the content words of attributes."""
    words = (word for each in attributes for word in tokenise(each))
    return {progressive(word) for word in words if word not in _SILENT and word[0].isalnum()}


def reached(caption: str, noun: str | None, read: PhraseReader) -> Sequence[NounPhrase]:
    """Return what a composer may say of a mask, all of whose draws are a caption."""
    sample = CaptionSample(crop="masked", decoder="beam", top_k=None, top_p=None, log_prob=0.0)
    drawn = ExpressionRecord(target_mask_ids=("m",), text=caption, samples=(sample,) * 40, head_noun=noun)
    posterior = Posterior(_COMPOSER.posterior, [evidence_of([drawn], "draws", read)], np.ones(1))
    return Likelihood(posterior, [MaskPosition(0.5, 0.5)], _COMPOSER.config).phrases[0]


@cache
def _reader(nouns: str) -> tuple[NounFinder, PhraseReader]:
    config = load_config("tiny", assignments=(f"filtering.nouns={nouns}",)).filtering
    return noun_finder(config), phrase_reader(config)


def judged(label: Mapping[str, Any], nouns: str = "rules") -> dict[str, tuple[int, int]]:
    """Return numerator and denominator of each column of one caption."""
    find, read = _reader(nouns)
    (noun,) = find([label["caption"]])
    (phrase,) = read([label["caption"]], [noun or ""])
    said = content((*phrase.before, *phrase.after)) if phrase else set()
    # "Fire" is a part of the head "fire hydrant", or describes the head "hydrant".
    said -= set(label["head"].split())
    true, number = content(label["describing"]), phrase.number if phrase else "none"
    is_one, is_described = label["kind"] == "one", bool(label["describing"])
    phrases = reached(label["caption"], noun, read)
    may_be_said = any(content((*each.before, *each.after)) & true for each in phrases)
    is_bare = any(not each.words for each in phrases)
    counts = (
        (1, 1),
        ((noun or "").split()[-1:] == label["head"].split()[-1:], 1),
        (len(said & true), len(said)),
        (len(said & true), len(true)),
        ({"pair": "one"}.get(number, number) == label["kind"], 1),
        (is_one and is_described and may_be_said, is_one and is_described),
        (is_one and not is_described and is_bare, is_one and not is_described),
    )
    return dict(zip(_COLUMNS, counts, strict=True))


def measure(labels: Sequence[Mapping[str, Any]], nouns: str = "rules") -> Iterator[dict[str, Any]]:
    """Yield a row for each source, and one for all, which has 95 % bootstrap intervals over captions."""
    rows = np.array([list(judged(label, nouns).values()) for label in labels], np.float64)
    sources = np.array([label["source"] for label in labels])
    for source in (*sorted(set(sources.tolist())), "all"):
        some = rows[(sources == source) | (source == "all")]
        intervals = {}
        if source == "all":
            rng = np.random.default_rng(0)
            drawn = np.array([_shares(some[rng.integers(len(some), size=len(some))]) for _ in range(_RESAMPLES)])
            ends = np.quantile(drawn, [0.025, 0.975], axis=0).T.tolist()
            intervals = dict(zip(_COLUMNS[1:], ends[1:], strict=True))
        shares = dict(zip(_COLUMNS, _shares(some).tolist(), strict=True))
        yield {"source": source, "nouns": nouns, **shares, "captions": len(some), "intervals": intervals}


def _shares(counts: Floats) -> Floats:
    """The columns of some captions, (C,) of (N, C, 2)."""
    total = counts.sum(axis=0)
    return np.asarray(total[:, 0] / np.maximum(total[:, 1], 1))


def main(
    labels: Annotated[Path, typer.Argument(help="A JSON object a line.")],
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the rows to this file.")] = None,
    nouns: Annotated[list[str] | None, typer.Option(help="rules or spacy; may be repeated.")] = None,
) -> None:
    """Print the table, and write it."""
    read = [json.loads(line) for line in labels.read_text(encoding="utf-8").splitlines()]
    found = [row for each in nouns or ["rules"] for row in measure(read, each)]
    rows = [(row["source"], row["nouns"], *(f"{row[name]:.3g}" for name in _COLUMNS)) for row in found]
    typer.echo(markdown_table(("source", "by", *_COLUMNS), rows))
    if json_path is not None:
        json_path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
