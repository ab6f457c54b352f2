"""The sections of a data card, from a run's header and totals: Markdown under front matter as Hugging Face has it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml

from schemas.config import SamArchitecture, WeightsConfig
from schemas.run import RunHeader
from schemas.tables import EXPRESSIONS, SCHEMAS
from store.card_texts import BIBTEX, BUILTIN, METHOD, PUBLISHED, RANDOM, Statement
from store.totals import RunTotals

TO_FILL: Final = "*to be filled in*"

# Source: the categories that Hugging Face's hub knows, by their upper bounds.
_SIZES: Final = (
    *((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M")),
    *((10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"), (10**11, "10B<n<100B")),
)
_LARGEST: Final = "100B<n<1T"
# By stage of the identity, the part of the configuration that names its engine.
_STAGES: Final = {"propose": "masks", "caption": "captions", "filter": "filtering"}
_STAGE_TITLES: Final = {"propose": "mask proposal", "caption": "captions", "filter": "scores and filter"}


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card is written from; nothing of it depends on how the run went, only on what it holds.

    Attributes:
        header: With all extensions of the plan.
        totals: Over the standing receipts.
        tables_sha256: Over the digests of all parts, ordered by shard and table.
    """

    header: RunHeader
    totals: RunTotals
    tables_sha256: str


def card_text(facts: CardFacts) -> str:
    """Return the card without its seal."""
    sections = (_title, _sources, _counts, _making, _biases, _licence, _citation)
    body = "\n\n".join("\n".join(section(facts)) for section in sections)
    return f"---\n{_front_matter(facts)}---\n\n{body}\n"


def _front_matter(facts: CardFacts) -> str:
    is_human = facts.header.origin == "import"
    tree: dict[str, Any] = {
        "pretty_name": "to be filled in",
        "license": "unknown",
        "language": ["en"],
        "annotations_creators": ["found" if is_human else "machine-generated"],
        "task_categories": ["image-segmentation"],
        "size_categories": [next((name for bound, name in _SIZES if facts.totals.expressions < bound), _LARGEST)],
        "tags": ["referring-image-segmentation", "pseudoris", *([] if is_human else ["synthetic"])],
        "configs": [
            {
                "config_name": name,
                "data_files": f"{name}/*.parquet",
                **({"default": True} if name == EXPRESSIONS else {}),
            }
            for name in sorted(SCHEMAS, key=lambda name: name != EXPRESSIONS)
        ],
    }
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _title(facts: CardFacts) -> Iterator[str]:
    yield "# Data card"
    yield ""
    yield (
        "Referring image segmentation: images, masks of their objects, and expressions that each fit one mask, as "
        "Parquet tables written by `pseudoris`. Hugging Face reads this card when it is copied to `README.md` beside "
        "the tables."
    )


def _sources(facts: CardFacts) -> Iterator[str]:
    header = facts.header
    yield "## Sources"
    yield ""
    yield "| | |"
    yield "| --- | --- |"
    yield f"| images | {_code(header.source)} |"
    yield f"| read as | `{header.config.source.format}` |"
    yield f"| planned | {header.num_images:,} images, {header.num_repeated:,} repeated listings counted once |"
    yield f"| begun | {header.created_utc} by `pseudoris {header.origin}` |"
    if header.parent is not None:
        parent = header.parent
        yield f"| made from | the run at {_code(parent.location)}, begun {parent.created_utc} |"
        yield f"| its manifest | number {parent.manifest}, sha256 `{parent.manifest_sha256}` |"
    yield f"| who took the images, when, where, of whom | {TO_FILL} |"


def _counts(facts: CardFacts) -> Iterator[str]:
    totals = facts.totals
    yield "## What it holds"
    yield ""
    yield "| | |"
    yield "| --- | --: |"
    yield f"| images | {totals.images:,} of {facts.header.num_images:,} |"
    yield f"| annotated | {totals.annotated:,} |"
    yield f"| empty: no mask survived | {totals.empty:,} |"
    yield f"| quarantined | {totals.quarantined:,} |"
    for reason, count in sorted(totals.reasons.items()):
        yield f"| … as `{reason}` | {count:,} |"
    yield f"| masks | {totals.masks:,} |"
    yield f"| candidate expressions | {totals.expressions:,} |"
    yield f"| kept expressions | {totals.kept:,} |"
    yield ""
    yield f"sha256 over the digests of all parts, by shard and table: `{facts.tables_sha256}`."
    if totals.degraded or totals.mixed:
        yield ""
        yield (
            f"{totals.degraded:,} shards were computed with lowered settings and {totals.mixed:,} on other devices or "
            "versions: another run of the same configuration may differ from them in the last bits."
        )


def _making(facts: CardFacts) -> Iterator[str]:
    header = facts.header
    yield "## How it was made"
    yield ""
    if not header.identity.weights:
        yield "No model was used."
    else:
        yield "| stage | engine | architecture | weights | sha256 |"
        yield "| --- | --- | --- | --- | --- |"
    for stage, digest in header.identity.weights.items():
        engine, architecture, weights = _model(header, stage)
        title = _STAGE_TITLES.get(stage, stage)
        yield f"| {title} | {_code(engine)} | {_code(architecture)} | {_code(weights)} | `{digest}` |"
    if "filter" in header.identity.weights:
        conditions = "".join(f" and {condition}" for condition in header.config.filtering.keep)
        yield ""
        yield f"Kept is what has distinctiveness > {header.config.filtering.tau:g}{conditions}."
    versions = ", ".join(f"{name} {version}" for name, version in sorted(header.identity.versions.items()))
    yield ""
    yield f"Device: {_code(header.identity.device_kind)}. Versions: {versions}."
    yield f"Precision {header.config.compute.precision}, seed {header.config.compute.seed}. The whole configuration"
    yield f"stands in `_run.json` (sha256 `{header.config_sha256}`)."


def _biases(facts: CardFacts) -> Iterator[str]:
    yield "## Known biases and limits"
    yield ""
    if facts.header.identity.weights:
        yield from map(_bullet, METHOD)
    # What is said of several stages is said once.
    stages_of: dict[Statement, list[str]] = {}
    for stage in facts.header.identity.weights:
        title = _STAGE_TITLES.get(stage, stage)
        statements = _statements(facts.header, stage)
        for statement in statements:
            stages_of.setdefault(statement, []).append(title)
        if not statements:
            yield f"- {title}: of {_code(_model(facts.header, stage)[0])} nothing is known here: {TO_FILL}."
    for statement, titles in stages_of.items():
        yield _bullet(statement, f"{', '.join(titles)}: ")
    yield f"- Of these images: {TO_FILL}."


def _statements(header: RunHeader, stage: str) -> tuple[Statement, ...]:
    """Return what is known of a stage's model; the schemes are those of `WeightsConfig.uri`."""
    engine, _, weights = _model(header, stage)
    if weights.startswith("builtin:"):
        return (BUILTIN,)
    if weights.startswith("random:"):
        return (RANDOM,)
    return PUBLISHED.get(engine, ())


def _licence(facts: CardFacts) -> Iterator[str]:
    yield "## Licence"
    yield ""
    yield "| of | licence |"
    yield "| --- | --- |"
    yield f"| the images | {TO_FILL} |"
    yield f"| masks and expressions | {TO_FILL} |"
    for stage in facts.header.identity.weights:
        yield f"| the weights {_code(_model(facts.header, stage)[2])} | {TO_FILL} |"
    yield f"| consent and personal data | {TO_FILL} |"


def _citation(facts: CardFacts) -> Iterator[str]:
    yield "## How to cite"
    yield ""
    yield "The papers whose methods and models made the data; this data set itself: " + TO_FILL + "."
    yield ""
    yield "```bibtex"
    yield BIBTEX.rstrip("\n")
    yield "```"


def _model(header: RunHeader, stage: str) -> tuple[str, str, str]:
    """Return engine, architecture and weights of a stage."""
    name = _STAGES.get(stage)
    if name is None:
        return stage, "", ""
    settings = getattr(header.config, name)
    weights: WeightsConfig = settings.weights
    architecture = settings.architecture
    if isinstance(architecture, SamArchitecture):
        sizes = f"{architecture.encoder_depth} blocks of {architecture.encoder_width}, {architecture.image_size} px"
        return settings.engine, f"ViT, {sizes}", weights.uri
    return settings.engine, str(architecture), weights.uri


def _bullet(statement: Statement, title: str = "") -> str:
    return f"- {title}{statement.text} ({statement.source}.)"


def _code(text: str) -> str:
    """Return words of the user's as code in a table cell: what they hold is neither markup nor a control character."""
    plain = "".join(
        letter if unicodedata.category(letter)[0] != "C" else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )
    return "`" + plain.replace("`", "'").replace("|", "¦") + "`"
