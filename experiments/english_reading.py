"""How well captions are read: heads, what describes them, and whether they are one thing, against labels of a reader.

    python -m experiments.english_reading LABELS [--json FILE] [--show] [--nouns spacy]

LABELS has a JSON object a line: `source`, `caption`, `head`, `describing` (texts, one an attribute), and `kind` (`one`,
`several`, `stuff` or `none`; a pair of scissors is `one`). Describing words are compared without articles, prepositions
and pronouns, verbs in their -ing form. `reached` counts, of the captions about one thing that is described, those of
which a phrase with a describing word reaches `Likelihood.phrases`, where all draws of a mask are that caption.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord
from pseudoris.workers import english as lexicon
from pseudoris.workers.composing.likelihood import Likelihood, MaskPosition
from pseudoris.workers.composing.posterior import Posterior, evidence_of
from pseudoris.workers.filtering.head_nouns import NounFinder, noun_finder, progressive, tokenise
from pseudoris.workers.noun_phrases import NounPhrase, PhraseReader, phrase_reader

_NO_CONTENT = lexicon.DETERMINERS | lexicon.PREPOSITIONS | lexicon.CONJUNCTIONS | lexicon.NUMERALS | lexicon.POSSESSIONS
_SILENT = _NO_CONTENT | lexicon.PERSONAL_PRONOUNS | lexicon.EMPTY_PRONOUNS | {"'s", "wearing", "wears"}
_COLUMNS = ("captions", "head", "precision", "recall", "one or several", "reached", "bare noun")


def content(attributes: Sequence[str]) -> set[str]:
    """Return the content words of attributes."""
    words = (word for each in attributes for word in tokenise(each))
    return {progressive(word) for word in words if word not in _SILENT and word[0].isalnum()}


@cache
def _composing() -> RunConfig:
    return load_config("tiny-composed")


def reached(caption: str, noun: str | None, read: PhraseReader) -> Sequence[NounPhrase]:
    """Return what a composer may say of a mask, all of whose draws are a caption."""
    config = _composing()
    if config.composing is None or config.filtering.fitted_values.posterior is None:
        raise ValueError("tiny-composed has no composer")
    sample = CaptionSample(crop="masked", decoder="beam", top_k=None, top_p=None, log_prob=0.0)
    drawn = ExpressionRecord(target_mask_ids=("m",), text=caption, samples=(sample,) * 40, head_noun=noun)
    posterior = Posterior(config.filtering.fitted_values.posterior, [evidence_of([drawn], "draws", read)], np.ones(1))
    return Likelihood(posterior, [MaskPosition(0.5, 0.5)], config.composing).phrases[0]


@cache
def _reader(nouns: str) -> tuple[NounFinder, PhraseReader]:
    config = load_config("tiny", assignments=(f"filtering.nouns={nouns}",)).filtering
    return noun_finder(config), phrase_reader(config)


def judged(label: Mapping[str, Any], nouns: str = "rules") -> dict[str, Any]:
    """Return the counts of one caption, and what was read."""
    find, read = _reader(nouns)
    (noun,) = find([label["caption"]])
    (phrase,) = read([label["caption"]], [noun or ""])
    said = content((*phrase.before, *phrase.after)) if phrase else set()
    # "Fire" is a part of the head "fire hydrant", or describes the head "hydrant".
    said -= set(label["head"].split())
    true, number = content(label["describing"]), phrase.number if phrase else "none"
    is_head = (noun or "").split()[-1:] == label["head"].split()[-1:]
    is_described, may_be_said = (
        label["kind"] == "one" and bool(label["describing"]),
        reached(label["caption"], noun, read),
    )
    bare = any(not each.words for each in may_be_said)
    return {
        "head": is_head,
        "both": len(said & true),
        "said": len(said),
        "true": len(true),
        "kind": {"pair": "one"}.get(number, number) == label["kind"],
        "asked": is_described,
        "reached": is_described and any(content((*each.before, *each.after)) & true for each in may_be_said),
        "bare": label["kind"] == "one" and not label["describing"],
        "bare_reached": label["kind"] == "one" and not label["describing"] and bare,
        "read": f"{phrase.before} {phrase.noun} {phrase.after} {phrase.number}" if phrase else "nothing",
        "missed": sorted(true - said),
        "wrong": sorted(said - true),
    }


def figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the shares of some captions by column."""
    total = {name: sum(row[name] for row in rows) for name in rows[0] if isinstance(rows[0][name], int)}
    ratios = (
        len(rows),
        total["head"] / len(rows),
        total["both"] / max(total["said"], 1),
        total["both"] / max(total["true"], 1),
        total["kind"] / len(rows),
        total["reached"] / max(total["asked"], 1),
        total["bare_reached"] / max(total["bare"], 1),
    )
    return dict(zip(_COLUMNS, ratios, strict=True))


def interval(rows: Sequence[Mapping[str, Any]], column: str, *, draws: int = 1000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a column, over captions."""
    rng = np.random.default_rng(0)
    samples = [[rows[at] for at in rng.integers(len(rows), size=len(rows))] for _ in range(draws)]
    low, high = np.quantile([figures(each)[column] for each in samples], [0.025, 0.975])
    return float(low), float(high)


def measure(
    labels: Sequence[Mapping[str, Any]], *, show: bool = False, nouns: str = "rules"
) -> Iterator[dict[str, Any]]:
    """Yield a row for each source, and one for all."""
    rows = [(label["source"], judged(label, nouns)) for label in labels]
    for label, (_, row) in zip(labels, rows, strict=True) if show else ():
        if not row["head"] or not row["kind"] or row["missed"] or row["wrong"]:
            print(label["caption"], row["read"], row["missed"], row["wrong"], sep=" | ")
    for source in (*sorted({source for source, _ in rows}), "all"):
        some = [row for each, row in rows if source in (each, "all")]
        yield {
            "source": source,
            "nouns": nouns,
            **figures(some),
            "intervals": {name: interval(some, name) for name in _COLUMNS[1:]} if source == "all" else {},
        }


def main() -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--show", action="store_true", help="print the captions that were not read as labelled")
    parser.add_argument("--nouns", action="append", choices=("rules", "spacy"), help="may be repeated")
    given = parser.parse_args()
    labels = [json.loads(line) for line in given.labels.read_text(encoding="utf-8").splitlines()]
    found = [row for nouns in given.nouns or ["rules"] for row in measure(labels, show=given.show, nouns=nouns)]
    table = Table("source", "by", *_COLUMNS)
    for row in found:
        table.add_row(row["source"], row["nouns"], *(f"{row[name]:.3g}" for name in _COLUMNS))
    Console().print(table)
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
