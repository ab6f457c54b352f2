"""Figures as JSON values, as cells of Markdown tables, and in the texts that hold them: templates beside the code."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import jinja2

from evidence.experiments.verdicts import verdict
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.estimate import Estimate, ImageBootstrap, Sums

TRIPLE: Final = ("accuracy", "yield", "coverage")
# A figure with its interval, as JSON holds it: value, low and high, each None where nothing was counted.
Figure = Mapping[str, Any]


def as_json(estimate: Estimate) -> dict[str, float | None]:
    """Return a figure and its interval as JSON values, to five digits: the sixth is far inside any interval."""
    parts = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {name: round(part, 5) if math.isfinite(part) else None for name, part in parts.items()}


def paired(parts: Mapping[str, Sequence[Sums]], *, seed: int = 0) -> ImageBootstrap:
    """Return the figures `<part>.<figure>` of parts that have the same images, resampled together."""
    images = (
        {f"{name}.{figure}": pair for name, sums in zip(parts, image, strict=True) for figure, pair in sums.items()}
        for image in zip(*parts.values(), strict=True)
    )
    return ImageBootstrap(images, seed=seed)


def ratios(found: ImageBootstrap, part: str, figures: Sequence[str] = TRIPLE) -> dict[str, Any]:
    """Return figures of a part of `paired` as JSON values."""
    return {figure: as_json(found.ratio(f"{part}.{figure}")) for figure in figures}


def differences(found: ImageBootstrap, more: str, less: str, figures: Sequence[str] = TRIPLE) -> dict[str, Any]:
    """Return by how much a part of `paired` exceeds another, as JSON values."""
    return {figure: as_json(found.difference(f"{more}.{figure}", f"{less}.{figure}")) for figure in figures}


def cell(figure: Figure | None, digits: int = 3, *, sign: str = "") -> str:
    """Return value and interval, a dash where nothing was counted."""
    if figure is None or figure["value"] is None:
        return "–"
    said = f"{figure['value']:{sign}.{digits}f}"
    if figure["low"] is None:
        return said
    return f"{said} [{figure['low']:{sign}.{digits}f}, {figure['high']:{sign}.{digits}f}]"


def value(figure: Figure | None, digits: int = 3) -> str:
    """Return the value alone, a dash where nothing was counted."""
    return "–" if figure is None or figure["value"] is None else f"{figure['value']:.{digits}f}"


def percent(figure: Figure | None) -> str:
    """Return a share in percent, a dash where nothing was counted."""
    return "–" if figure is None or figure["value"] is None else f"{100 * figure['value']:.1f} %"


def triple(figures: Mapping[str, Figure]) -> str:
    """Return accuracy, yield and coverage of what is kept, one behind the other."""
    return " / ".join(value(figures[name], 2) for name in TRIPLE)


def is_reversed_beside(parts: Mapping[str, Figure]) -> bool:
    """Return whether an order, told apart by difficulty, is reversed wherever an object has others of its category."""
    beside = [difference for part, difference in parts.items() if part not in ("0", "no object")]
    return bool(beside) and all(verdict(each["low"], each["high"], None) == "below" for each in beside)


def said_difference(difference: Mapping[str, Any]) -> str:
    """Return a difference as a sentence has it: its interval, the range over seeds, and whether there is a verdict."""
    seeds, trainings = difference["seeds"], difference["trainings"]
    spread = f", {min(seeds):+.3f} to {max(seeds):+.3f} by seed" if len(seeds) > 1 else ""
    found = verdict(difference["low"], difference["high"], trainings)
    few = f": no verdict, {trainings} training{'s' if trainings > 1 else ''}"
    ending = {"not told apart": ": not told apart", "no verdict": few}.get(found, "")
    return f"{cell(difference, sign='+')}{spread}{ending}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table whose first column is of words and the others of figures."""
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def put_into(page: Path, table: str, *, marks: tuple[str, str]) -> None:
    """Replace the table of a page, between its two marks."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not begin or not end:
        raise ConfigError(f"{page} has no marks {' … '.join(marks)} for the table: put them where it shall stand")
    page.write_text(f"{before}{begin}\n\n{table}\n\n{end}{after}", encoding="utf-8")


def plot_name(part: str, name: str) -> str:
    """Return the file name of a part's plot, beside the page."""
    return f"quality-{part}-{name}.svg"


def render(name: str, values: Mapping[str, Any]) -> str:
    """Return a text with its figures: the template `experiments/<name>.md.j2`, which knows the cells of this module.

    Raises:
        jinja2.UndefinedError: It asks for something that is not in `values`.
    """
    return _texts().get_template(f"{name}.md.j2").render(values).strip()


@cache
def _texts() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(Path(__file__).parents[1])
    # Markdown of our own figures: nothing of a user's stands in it.
    texts = jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True
    )
    cells = (cell, value, percent, triple, said_difference)
    texts.globals |= {each.__name__: each for each in (*cells, plot_name)}
    return texts
