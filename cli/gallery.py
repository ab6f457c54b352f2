"""`pseudoris gallery`: writes the two HTML pages of a run, its images and its quality.

Called by `main`; `demo` calls `write_pages`. The room `viewer` makes the pages; this module chooses what they show and
where they lie. They may lie in OUT/gallery, but never among the tables of the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pseudoris.cli import options
from pseudoris.cli.console import note, report, stdout
from pseudoris.cli.options import check_apart, load_plugins, option
from pseudoris.cli.progress import bar
from pseudoris.files.location import RunLocation
from pseudoris.files.named_places import moved_places
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.uris import writable
from pseudoris.store.runs.lock import RunLock
from pseudoris.store.tables.image_bytes import PlannedImages
from pseudoris.store.tables.open_run import OpenRun

FOLDER = "gallery"
DEFAULT_SAMPLE = 200
# A gallery has at most this many images: a page holds all records, and browsers fail above a few hundred megabytes.
MAX_SAMPLE = 2_000


def gallery(
    out: options.Out,
    sample: Annotated[int, option("Show at most N images, spread evenly.", min=1, max=MAX_SAMPLE)] = DEFAULT_SAMPLE,
    to: Annotated[str | None, option("--to", "Folder or url for the pages. Default: OUT/gallery.")] = None,
    audit: Annotated[
        str | None,
        option(
            "--audit",
            "Show an audit's verdicts, and filter by them. Its judged images are shown besides the sample.",
            metavar="AUDIT",
        ),
    ] = None,
    images: Annotated[
        list[str] | None,
        option(
            "--image",
            "Show this image besides the sample, by its id or the id of one of its pairs. Can be repeated.",
            metavar="ID",
        ),
    ] = None,
    source: options.MovedSource = None,
    plugins: options.Plugins = None,
) -> None:
    """Write HTML pages: images, masks, expressions, and the quality of the run."""
    load_plugins(plugins)
    from pseudoris.viewer.gallery_page import INDEX_NAME, QUALITY_NAME

    folder = None if audit is None else options.local_folder(audit)
    page = write_pages(out, sample=sample, to=to, audit=folder, besides=images or (), source=source)
    report("gallery", page, "green", console=stdout)
    report("quality", f"{page.removesuffix(INDEX_NAME)}{QUALITY_NAME}", "green", console=stdout)


def write_pages(
    out: str,
    *,
    sample: int = DEFAULT_SAMPLE,
    to: str | None = None,
    audit: Path | None = None,
    besides: Sequence[str] = (),
    source: Sequence[str] | None = None,
) -> str:
    """Write the gallery and the quality page of the run at `out`; return the gallery's address.

    Images of the audit's verdicts, and those of `besides`, ids of images or pairs, are shown whatever the sample is.
    `source` says where the run's images are now, if they have moved, as `--source` does.
    """
    from pseudoris.images.pixels import explain_missing
    from pseudoris.viewer.gallery_page import QUALITY_NAME, check_destination, write_gallery
    from pseudoris.viewer.gallery_sample import gallery_from_run
    from pseudoris.viewer.quality_page import iter_quality, quality_of_run

    location = RunLocation.open_to_read(out)
    run = OpenRun.at(location)
    if to is None and (found := location.obstacle(FOLDER)) not in (None, "a folder"):
        raise ConfigError(f"{location.uri(FOLDER)} is {found}. Move it away, or name another folder with --to.")
    plugins = tuple(dict.fromkeys(name for each in run.header.runs for name in each.config.images.decoder_plugins))
    if (missing := explain_missing(plugins)) is not None:
        note(f"Images of some formats are not shown: {missing}")
    destination = RunLocation.open(f"{location.root}/{FOLDER}" if to is None else writable(to))
    check_apart(location, destination, option="--to")
    check_destination(destination)
    verdicts = _verdicts(audit, run) if audit else {}
    # An image's id is the part of a pair's id before the first hyphen.
    ids = {pair.partition("-")[0] for pair in (*besides, *verdicts)}
    planned = PlannedImages(location, run.header, source=moved_places(source))
    content = replace(gallery_from_run(run, planned, sample=sample, besides=ids), verdicts=verdicts)
    with RunLock.held(destination, on_wait=note) as lock, bar() as show:
        quality = quality_of_run(run, content.summary, on_shard=show.named("counting shards"))
        # The quality page is written first, because the gallery links to it.
        destination.replace(QUALITY_NAME, "".join(iter_quality(quality)).encode())
        return write_gallery(content, destination, lock.guarded(show.named("images"), is_last_now=True))


def _verdicts(audit: Path, run: OpenRun) -> dict[str, dict[str, str]]:
    """Return an audit's verdicts by pair and rater, on pairs whose picture, masks and text are the same in this run."""
    from pseudoris.audit.audit_folder import AuditFolder
    from pseudoris.audit.judged_pairs import apply_to

    folder = AuditFolder.open(audit)
    # `apply_to` compares more than ids, because another run of the same images has the same ids for other masks.
    applied = apply_to(run, folder)
    if left_out := applied.num_asked - applied.num_same:
        note(f"{left_out:,} pairs of {audit} are not in this run. Their verdicts are not shown.")
    found: dict[str, dict[str, str]] = {}
    for answers in folder.answers():
        for pair, line in answers.verdicts.items():
            if pair in applied.kept:
                found.setdefault(pair, {})[answers.rater] = line.verdict
    return found
