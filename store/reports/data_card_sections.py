"""The sections of a data card, from a run's header and totals: Markdown with the front matter of Hugging Face."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml
from pydantic import JsonValue

from pseudoris.schemas.audit_records import CitedAudit, JudgedShare, audit_of
from pseudoris.schemas.exclusion_records import exclusions_of
from pseudoris.schemas.run_records import RunHeader
from pseudoris.schemas.tables import EXPRESSIONS, SCHEMAS
from pseudoris.store.reports.data_card_models import BIBTEX, METHOD, Statement, UsedModel, used_models
from pseudoris.store.runs.totals import RunTotals
from pseudoris.store.tables.keep_rule import stated_rule

TO_FILL: Final = "*to be filled in*"

# Source: the size categories of the Hugging Face hub, by their upper bounds.
_SIZES: Final = (
    *((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M")),
    *((10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"), (10**11, "10B<n<100B")),
)
_PSEUDO: Final = (
    "The rows of one image and text are the pseudo-masks of that expression. A kept row is the referent. A row that "
    "is not kept is a context mask, or an undecided mask."
)
_LARGEST: Final = "100B<n<1T"


@dataclass(frozen=True, slots=True)
class CardFacts:
    """The input of a card; it depends only on what the run holds, not on how the run went.

    Attributes:
        header: The header with all extensions of the plan.
        totals: Sums over the latest receipts.
        tables_sha256: Digest over the digests of all parts, ordered by shard and table.
        excluded: Images quarantined as excluded, by their message.
        cited: The audit of the run that the card cites.
        root_sha256: Root digest of the run.
    """

    header: RunHeader
    totals: RunTotals
    tables_sha256: str
    excluded: Mapping[str, int] = field(default_factory=dict)
    cited: CitedAudit | None = None
    root_sha256: str = ""


def card_text(facts: CardFacts) -> str:
    """Return the card without its final digest line."""
    exclusions = () if facts.header.exclusions is None else (_exclusions,)
    audit = () if facts.header.audits is None and facts.cited is None else (_audit,)
    sections = (_title, _sources, _counts, *audit, *exclusions, _making, _biases, _licence, _citation)
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
        "Referring image segmentation: images, masks of their objects, and expressions that each refer to one mask. "
        "`pseudoris` wrote them as Parquet tables. To show this card on Hugging Face, copy it to `README.md` next to "
        "the tables."
    )
    warning = facts.header.domain and facts.header.domain.warning
    if warning:
        yield ""
        yield f"> **{warning}**"


def _sources(facts: CardFacts) -> Iterator[str]:
    header = facts.header
    yield "## Sources"
    yield ""
    yield "| | |"
    yield "| --- | --- |"
    yield f"| images | {_code(header.source)} |"
    yield f"| read as | `{header.config.source.format}` |"
    yield f"| planned | {header.num_images:,} images; {header.num_repeated:,} repeated listings are not counted |"
    yield f"| started | {header.created_utc} by `pseudoris {header.origin}` |"
    if header.parent is not None:
        parent = header.parent
        yield f"| made from | the run at {_code(parent.location)}, started {parent.created_utc} |"
        yield f"| its manifest | number {parent.manifest}, sha256 `{parent.manifest_sha256}` |"
    yield from _annotation(header)
    yield f"| who took the images, when, where; who is shown | {TO_FILL} |"


def _annotation(header: RunHeader) -> Iterator[str]:
    """For an import, the rows on the human annotation; the digests are those of the files that were read."""
    method = _import_method(header)
    if header.origin != "import" and not method:
        return
    yield f"| annotation | `{method.get('format', 'unknown')}`, {method.get('orientation', 'upright')} |"
    for name, digest in annotation_files(header).items():
        yield f"| … its file {_code(name)} | sha256 `{digest}` |"
    if method.get("splits"):
        yield f"| … its splits | {', '.join(_code(str(split)) for split in method['splits'])} |"
    if method.get("prefix"):
        yield f"| … folder of its images | {_code(str(method['prefix']))} |"
    yield f"| who annotated, how | {TO_FILL} |"


def annotation_files(header: RunHeader) -> dict[str, str]:
    """Return the sha256 of the annotation files that an import read, by name; empty for other runs."""
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
    yield f"| empty: no mask left | {totals.empty:,} |"
    yield f"| quarantined | {totals.quarantined:,} |"
    for reason, count in sorted(totals.reasons.items()):
        yield f"| … as `{reason}` | {count:,} |"
    yield f"| masks | {totals.masks:,} |"
    yield f"| expressions, kept or not | {totals.expressions:,} |"
    yield f"| kept expressions | {totals.kept:,} |"
    if totals.kept_lone:
        yield f"| … unfiltered: the mask is alone in its image | {totals.kept_lone:,} |"
    yield ""
    yield f"sha256 over the digests of all parts, by shard and table: `{facts.tables_sha256}`."
    if totals.degraded or totals.mixed:
        yield ""
        yield (
            f"{totals.degraded:,} shards were computed with lowered settings, and {totals.mixed:,} on other devices or "
            "package versions. There, another run of the same configuration may differ in the last bits."
        )


def _audit(facts: CardFacts) -> Iterator[str]:
    yield "## Accuracy, judged by people"
    if facts.cited is not None:
        yield from _cited(facts.cited, is_of_this=facts.cited.run_root == facts.root_sha256)
    found = audit_of(facts.header)
    if found is None:
        return
    yield ""
    yield "| the parent's audit, which chose the rule | |"
    yield "| --- | --- |"
    yield f"| right, of the kept | {found.accuracy:.3f}, at least {found.at_least:.3f} (with {found.level:.0%}) |"
    yield f"| from | {found.verdicts:,} verdicts by {found.raters:,} raters on a sample of the parent |"
    yield f"| the rule was chosen for | an accuracy of {found.target:g}: {_code(found.rule)} |"
    yield f"| digest of the draw | `{found.draw}` |"
    yield f"| root of the run drawn from | `{found.run_root}` |"


def _cited(found: CitedAudit, *, is_of_this: bool) -> Iterator[str]:
    yield ""
    yield "| an audit of this run | |"
    yield "| --- | --- |"
    yield f"| right, of the kept | {_judged_share(found.accuracy)} |"
    if found.undecided:
        yield f"| … if {found.undecided:,} undecided are wrong, or right | {found.worst:.3f}, {found.best:.3f} |"
    if found.corrected is not None:
        yield f"| … corrected for raters' errors | {_judged_share(found.corrected)} |"
    yield f"| masks with a right expression | {_judged_share(found.masks)} |"
    judged = f"{found.num_judged:,} of {found.num_drawn:,} drawn pairs"
    yield f"| from | {judged}, judged by {found.raters:,} raters |"
    yield f"| digest of the draw | `{found.draw}` |"
    if not is_of_this:
        yield ""
        yield "The run has changed since this audit was cited. Its figures are those of the earlier state."


def _judged_share(share: JudgedShare) -> str:
    return f"{share.value:.3f}, {share.low:.3f} to {share.high:.3f} (95 %)"


def _exclusions(facts: CardFacts) -> Iterator[str]:
    record = exclusions_of(facts.header)
    yield "## Excluded images"
    yield ""
    yield "These images are not in the data. By name: images of the last listing that are not planned, because a"
    yield "benchmark tests on them, or because `only` does not name them. By content: images that are planned, and"
    yield "quarantined as `excluded`."
    yield ""
    yield "| rule | of | settings | values | sha256 of the values | excluded images |"
    yield "| --- | --- | --- | --: | --- | --: |"
    for rule in record.rules if record else ():
        settings = "; ".join(f"{name} {_setting(value)}" for name, value in sorted(rule.settings.items())) or "–"
        count = facts.excluded.get(rule.reason, 0) if rule.num_excluded is None else rule.num_excluded
        cells = (f"`{rule.kind}`", _code(rule.title), settings, f"{rule.num_values:,}", f"`{rule.values_sha256}`")
        yield f"| {' | '.join(cells)} | {count:,} |"
    if record is not None and record.missing is not None:
        yield ""
        yield f"{record.missing[0].upper()}{record.missing[1:]}."
    files = [(name, digest) for rule in (record.rules if record else ()) for name, digest in rule.files.items()]
    for name, digest in dict.fromkeys(files):
        yield ""
        yield f"File {_code(name)}: sha256 `{digest}`."


def _setting(value: JsonValue) -> str:
    return _code(", ".join(map(str, value)) if isinstance(value, list) else str(value))


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
    yield f"Precision {header.config.compute.precision}, seed {header.config.compute.seed}. The full configuration"
    yield f"is in `_run.json` (sha256 `{header.config_sha256}`)."


def _rule(header: RunHeader) -> str:
    rule, filtering = stated_rule(header), header.config.filtering
    if rule is None or rule.tau is not None:
        return f"An expression is kept if it has {rule}."
    also = f" It must also have {' and '.join(map(str, rule.conditions))}." if rule.conditions else ""
    return (
        f"{_code(filtering.engine)} decided by its own bound which expressions are kept. That bound may differ from "
        f"`filtering.tau` = {filtering.tau:g}.{also}"
    )


def _read(used: UsedModel) -> str:
    return "–" if used.uri is None else f"{used.thing} {_code(used.uri)}"


def _biases(facts: CardFacts) -> Iterator[str]:
    yield "## Known biases and limits"
    yield ""
    if facts.header.identity.weights and facts.header.origin != "ppt":
        yield from map(_bullet, METHOD)
    # A statement that applies to several stages is written once.
    titles_of: dict[Statement, list[str]] = {}
    for used in used_models(facts.header):
        for statement in used.statements:
            titles_of.setdefault(statement, []).append(used.title)
        if used.engine and not used.statements:
            yield f"- {used.title}: nothing is known here about {_known_as(used)}: {TO_FILL}."
    for statement, titles in titles_of.items():
        yield _bullet(statement, f"{', '.join(titles)}: ")
    yield f"- About these images: {TO_FILL}."


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
    yield (
        "The papers on the methods and models that made the data are below. For this data set itself: " + TO_FILL + "."
    )
    yield ""
    yield "```bibtex"
    yield BIBTEX.rstrip("\n")
    yield "```"


def _bullet(statement: Statement, title: str = "") -> str:
    return f"- {title}{statement.text} ({statement.source}.)"


def _code(text: str) -> str:
    """Return the user's text as code for a table cell, with markup and control characters made harmless."""
    plain = "".join(
        letter if unicodedata.category(letter)[0] != "C" else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )
    return "`" + plain.replace("`", "'").replace("|", "¦") + "`"
