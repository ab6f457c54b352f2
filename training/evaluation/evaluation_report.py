"""Writes an evaluation as files: Markdown, an HTML page and JSON. For `cli` and `model_evaluation`.

Texts come from files and users: each is escaped. The page loads nothing and runs no script.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator
from html import escape as escape_html
from importlib.resources import files
from typing import Any, Final

from markupsafe import Markup

from pseudoris.files.location import RunLocation
from pseudoris.primitives.templates import page_templates
from pseudoris.primitives.untrusted import printable, printable_json
from pseudoris.schemas.estimate import Estimate
from pseudoris.store.reports.charts import whisker
from pseudoris.training.evaluation.run_evaluation import (
    FIGURES,
    GROUP_TITLES,
    KIND_TITLES,
    MASK_FIGURES,
    SET_MEANINGS,
    SET_TITLES,
    Evaluation,
    Part,
    as_tree,
)

MARKDOWN_NAME: Final = "evaluation.md"
HTML_NAME: Final = "evaluation.html"
JSON_NAME: Final = "evaluation.json"
_MARKUP: Final = re.compile(r"([\\`*_{}\[\]|#!~])")


def write_report(found: Evaluation, destination: RunLocation) -> str:
    """Write the three files and return the page's address."""
    tree = printable_json(as_tree(found), indent=2)
    for name, text in ((MARKDOWN_NAME, markdown(found)), (JSON_NAME, f"{tree}\n"), (HTML_NAME, html(found))):
        destination.replace(name, text.encode())
    return destination.uri(HTML_NAME)


def markdown(found: Evaluation) -> str:
    """Return the report as Markdown; what comes from files and users is escaped."""
    parts = ["# Evaluation", *map(_escaped, found.circularity)]
    parts.append("\n".join(f"- {name}: {_escaped(text)}" for name, text in image_lines(found).items()))
    parts += [_escaped(note) for note in found.notes]
    parts.append(caption(found))
    for number, (title, headers, rows) in enumerate(tables(found)):
        rule = ["---", *("--:" for _ in headers[1:])]
        lines = ("| " + " | ".join(row) + " |" for row in (headers, rule, *rows))
        parts += [f"## {title.capitalize()}", "\n".join(lines)]
        if not number:
            parts.append("\n".join(f"- *{figure.title}*: {figure.meaning}" for figure in FIGURES.values()))
    return "\n\n".join(part for part in parts if part) + "\n"


def caption(found: Evaluation) -> str:
    """Return a sentence that explains the brackets in a table."""
    return f"Brackets show 95 % intervals, from {found.resamples:,} resamples of images (seed {found.seed})."


def html(found: Evaluation) -> str:
    """Return the report as one self-contained page; every text is escaped, and no script runs."""
    return render_page(
        "evaluation.html.j2",
        found=found,
        lines=image_lines(found),
        caption=caption(found),
        figures=FIGURES,
        set_titles=SET_TITLES,
        set_meanings=SET_MEANINGS,
        mask_figures=MASK_FIGURES,
        parts=part_titles(found),
        whisker=whisker,
    )


def render_page(template: str, *, img_src: str | None = None, **values: Any) -> str:
    """Return a page of this folder's style; every text is escaped, no script runs, and `img_src` alone gives images."""
    style = files("pseudoris.training.evaluation").joinpath("templates", "evaluation.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    images = "" if img_src is None else f" img-src {img_src};"
    policy = f"default-src 'none';{images} style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    # The style is not escaped, because it comes from our own file and not from data.
    page = page_templates("pseudoris.training.evaluation").get_template(template)
    return page.render(style=Markup(style), policy=policy, **values)


def _escaped(text: str) -> str:
    # HTML's special characters are escaped too, because Markdown may contain HTML.
    return escape_html(_MARKUP.sub(r"\\\1", printable(" ".join(text.split()))), quote=False)


def image_lines(found: Evaluation) -> dict[str, str]:
    """Return which images the figures are of, for a person, by name."""
    images = found.images
    lines = {
        "run": found.run,
        "truth": found.truth,
        "images": f"{images.judged:,} judged, of {images.in_plan:,} planned and {images.in_truth:,} in the truth",
        "objects": f"{found.objects:,}, and {found.masks:,} masks",
        "expressions": f"{found.draws:,} drawn, {found.kept:,} kept",
    }
    if images.shards_read < images.shards:
        lines["sample"] = f"{images.shards_read:,} of {images.shards:,} shards, spread evenly"
    if images.unknown:
        lines["unknown"] = f"{images.unknown:,} images of the run are not in the truth, such as {images.unknown_key}"
    if images.quarantined:
        missed = f"; the objects of {images.judged_quarantined:,} of them count as missed"
        lines["quarantined"] = f"{images.quarantined:,} images of the run{missed if images.judged_quarantined else ''}"
    return lines


def part_titles(found: Evaluation) -> dict[str, tuple[str, Part]]:
    """Return the parts of the kept expressions that hold any, by what a heading calls them."""
    alike = {"0": "no other object of its category", "1": "1 other", "2": "2 others", "3+": "3 or more others"}
    named = [(alike.get(name, "mask is not an object"), "difficulty", part) for name, part in found.difficulty.items()]
    named += [(GROUP_TITLES.get(name, name), "attribute pair", part) for name, part in found.groups.items()]
    named += [(KIND_TITLES.get(name, name), "kind", part) for name, part in found.kinds.items()]
    return {title: (kind, part) for title, kind, part in named if part.expressions}


def tables(
    found: Evaluation, of_set: Callable[[Estimate, int], str] = Estimate.text
) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Yield title, headers and rows of the tables; `of_set` writes the figures of the first, of sets of expressions."""
    every = [(name, each.title, each.digits) for name, each in FIGURES.items()]
    sets = [[title, *(of_set(found.sets[each][name], digits) for each in SET_TITLES)] for name, title, digits in every]
    yield "expressions", ["", *SET_TITLES.values()], sets
    steps = found.differences.values()
    rows = [[title, *(step[name].text(digits, sign="+") for step in steps)] for name, title, digits in every]
    yield "paired differences", ["", *found.differences], rows
    masks = [[each.title, found.mask_quality[name].text(each.digits)] for name, each in MASK_FIGURES.items()]
    yield "masks", ["", ""], masks
    parts = part_titles(found).items()
    targets = [[title, part.accuracy.text(3), f"{part.expressions:,}"] for title, (_, part) in parts]
    yield "kept expressions by their target", ["", "referring accuracy", "expressions"], targets
