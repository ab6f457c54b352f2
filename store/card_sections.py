"""The sections of a data card, from a run's header and totals: Markdown under front matter as Hugging Face has it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml

from schemas.run import RunHeader
from schemas.tables import EXPRESSIONS, SCHEMAS
from store.card_models import UsedModel, used_models
from store.card_texts import BIBTEX, METHOD, Statement
from store.keeping import stated_rule
from store.totals import RunTotals

TO_FILL: Final = "*to be filled in*"

# Source: the categories that Hugging Face's hub knows, by their upper bounds.
_SIZES: Final = (
    *((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M")),
    *((10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"), (10**11, "10B<n<100B")),
)
_PSEUDO: Final = (
    "An expression's candidate masks are its rows of one image and text; kept is the referent, not kept a context, or "
    "a candidate that is not decided."
)
_LARGEST: Final = "100B<n<1T"


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
    yield from _annotation(header)
    yield f"| who took the images, when, where, of whom | {TO_FILL} |"


def _annotation(header: RunHeader) -> Iterator[str]:
    """The rows of what people had annotated, of an import; the digests are those of the files as they were read."""
    method = _import_method(header)
    if header.origin != "import" and not method:
        return
    yield f"| annotation | `{method.get('format', 'unknown')}`, {method.get('orientation', 'upright')} |"
    for name, digest in annotation_files(header).items():
        yield f"| … its file {_code(name)} | sha256 `{digest}` |"
    if method.get("splits"):
        yield f"| … its splits | {', '.join(_code(str(split)) for split in method['splits'])} |"
    if method.get("prefix"):
        yield f"| … its images lie in | {_code(str(method['prefix']))} |"
    yield f"| who annotated, how | {TO_FILL} |"


def annotation_files(header: RunHeader) -> dict[str, str]:
    """Return the sha256 of the files that an import read its annotation from, by name; none of another run."""
    return dict(_import_method(header).get("files", {}))


def _import_method(header: RunHeader) -> dict[str, Any]:
    method = header.identity.method.get("import")
    return dict(method) if isinstance(method, dict) else {}


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
    if header.origin == "ppt":
        yield f"A data recipe of PPT (Dai and Yang 2024), `{header.identity.method.get('recipe')}`. {_PSEUDO}"
        yield ""
    if not header.identity.weights:
        yield "No model was used."
    else:
        yield "| stage | engine | architecture | read | sha256 |"
        yield "| --- | --- | --- | --- | --- |"
    for used in used_models(header):
        cells = (used.title, *(_code(text) if text else "–" for text in (used.engine, used.architecture)))
        yield f"| {' | '.join(cells)} | {_read(used)} | {used.digest or '–'} |"
    if "filter" in header.identity.weights:
        yield ""
        yield _rule(header)
    versions = ", ".join(f"{name} {version}" for name, version in sorted(header.identity.versions.items()))
    yield ""
    yield f"Device: {_code(header.identity.device_kind)}. Versions: {versions}."
    yield f"Precision {header.config.compute.precision}, seed {header.config.compute.seed}. The whole configuration"
    yield f"stands in `_run.json` (sha256 `{header.config_sha256}`)."


def _rule(header: RunHeader) -> str:
    rule, filtering = stated_rule(header), header.config.filtering
    if rule is None or rule.tau is not None:
        return f"Kept is what has {rule}."
    also = f" Besides, it has {' and '.join(map(str, rule.conditions))}." if rule.conditions else ""
    return (
        f"What is kept, {_code(filtering.engine)} decided by a bound of its own, which need not be "
        f"`filtering.tau` = {filtering.tau:g}.{also}"
    )


def _read(used: UsedModel) -> str:
    return "–" if used.uri is None else f"{used.thing} {_code(used.uri)}"


def _biases(facts: CardFacts) -> Iterator[str]:
    yield "## Known biases and limits"
    yield ""
    if facts.header.identity.weights and facts.header.origin != "ppt":
        yield from map(_bullet, METHOD)
    # What is said of several stages is said once.
    titles_of: dict[Statement, list[str]] = {}
    for used in used_models(facts.header):
        for statement in used.statements:
            titles_of.setdefault(statement, []).append(used.title)
        if used.engine and not used.statements:
            yield f"- {used.title}: of {_known_as(used)} nothing is known here: {TO_FILL}."
    for statement, titles in titles_of.items():
        yield _bullet(statement, f"{', '.join(titles)}: ")
    yield f"- Of these images: {TO_FILL}."


def _known_as(used: UsedModel) -> str:
    return _code(used.engine) if used.uri is None else f"the {used.thing} {_code(used.uri)}"


def _licence(facts: CardFacts) -> Iterator[str]:
    yield "## Licence"
    yield ""
    yield "| of | licence |"
    yield "| --- | --- |"
    yield f"| the images | {TO_FILL} |"
    yield f"| masks and expressions | {TO_FILL} |"
    for name in annotation_files(facts.header):
        yield f"| the annotation {_code(name)} | {TO_FILL} |"
    for used in used_models(facts.header):
        if used.engine:
            of = f"the weights of {_code(used.engine)}" if used.uri is None else f"the {used.thing} {_code(used.uri)}"
            yield f"| {of} | {TO_FILL} |"
    yield f"| consent and personal data | {TO_FILL} |"


def _citation(facts: CardFacts) -> Iterator[str]:
    yield "## How to cite"
    yield ""
    yield "The papers whose methods and models made the data; this data set itself: " + TO_FILL + "."
    yield ""
    yield "```bibtex"
    yield BIBTEX.rstrip("\n")
    yield "```"


def _bullet(statement: Statement, title: str = "") -> str:
    return f"- {title}{statement.text} ({statement.source}.)"


def _code(text: str) -> str:
    """Return words of the user's as code in a table cell: what they hold is neither markup nor a control character."""
    plain = "".join(
        letter if unicodedata.category(letter)[0] != "C" else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )
    return "`" + plain.replace("`", "'").replace("|", "¦") + "`"
