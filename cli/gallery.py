"""`pseudoris gallery`: one page to look at before a week of GPUs is spent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import options
from cli.console import report
from schemas.errors import ConfigError
from store.header import require_header
from store.location import RunLocation
from store.sources.reading import PlannedImages

DEFAULT_SAMPLE = 64


def gallery(
    out: options.Out,
    sample: Annotated[int, typer.Option(min=1, help="Show at most N images, spread evenly.")] = DEFAULT_SAMPLE,
    page: Annotated[
        Path | None,
        typer.Option("--page", help="Where the page goes; OUT/gallery.html by default.", show_default=False),
    ] = None,
) -> None:
    """Write one HTML page: images, masks, kept and rejected expressions with their scores."""
    report("gallery", str(write_page(out, sample=sample, page=page)), "green")


def write_page(out: str, *, sample: int = DEFAULT_SAMPLE, page: Path | None = None) -> Path:
    """Write the gallery of the run at `out` and return the page's absolute path.

    Raises:
        ConfigError: There is no run, `out` is no folder of this machine and no page is named, or the page cannot be
            written where it should go.
    """
    from viewer.gallery import write_gallery
    from viewer.reading import gallery_from_run

    location = RunLocation.open(out)
    header = require_header(location)
    if page is None and "://" in location.root:
        raise ConfigError(f"{location.root} is not on this machine: say where the page goes with --page gallery.html")
    target = page if page is not None else Path(location.root) / "gallery.html"
    content = gallery_from_run(location, PlannedImages(location, header), sample=sample)
    try:
        return write_gallery(content, target)
    except OSError as error:
        raise ConfigError(
            f"the page {target} cannot be written: {error.strerror or error}. Name another place with --page, in a "
            "folder that exists and that you may write to"
        ) from error
