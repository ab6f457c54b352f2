"""`pseudoris ppt`: the data recipes of PPT, each of them a run of the usual tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cli import options
from cli.annotate import INTERRUPTED
from cli.console import facts_table, format_bytes, path_lines, report, stdout
from cli.progress import reasons_view
from pipeline.summary import table_globs
from schemas.errors import ConfigError
from store.location import RunLocation

if TYPE_CHECKING:
    from training.ppt.recipes.config import RecipeConfig
    from training.runs.writing import OnProgress, WrittenRun

app = typer.Typer(no_args_is_help=True, help="Data recipes of PPT (curriculum point prompting), as tables.")

Preset = Annotated[str, typer.Option("--preset", help="tiny (embedded, CPU) or paper (ViT-B/16, SAM ViT-B).")]
Work = Callable[["RecipeConfig", RunLocation, "OnProgress", Callable[[str], None]], "WrittenRun"]


@app.command("objects")
def objects(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="A folder of images a class, CLASS/*.jpg.", show_default=False)
    ],
    out: options.Out,
    names: Annotated[
        Path | None,
        typer.Option("--names", help="CSV, columns folder,name: what classes are called.", show_default=False),
    ] = None,
    embed_images: Annotated[
        bool, typer.Option("--embed-images", help="Write the images into the tables, as shards.embed_images=true.")
    ] = False,
    preset: Preset = "tiny",
    config_file: options.ConfigFile = None,
    assignments: options.Assignments = None,
) -> None:
    """D_sem: object-centric images, "the [class name] in the middle", and the mask that CLIP and SAM find."""
    table = _read(names) if names is not None else None
    words = [*(["shards.embed_images=true"] if embed_images else []), *(assignments or ())]

    def work(
        config: RecipeConfig, location: RunLocation, on_progress: OnProgress, on_wait: Callable[[str], None]
    ) -> WrittenRun:
        from training.ppt.recipes.objects import make_objects

        return make_objects(folder, location, config, names=table, on_progress=on_progress, on_wait=on_wait)

    _run("D_sem", out, preset, config_file, words, work)


@app.command("compose")
def compose(
    source: Annotated[
        str, typer.Argument(metavar="D_SEM", help="A finished run of `ppt objects`.", show_default=False)
    ],
    out: options.Out,
    preset: Preset = "tiny",
    config_file: options.ConfigFile = None,
    assignments: options.Assignments = None,
) -> None:
    """D_ref: mosaics with absolute positions and fusions with relations, made of D_sem; contexts are not kept."""

    def work(
        config: RecipeConfig, location: RunLocation, on_progress: OnProgress, on_wait: Callable[[str], None]
    ) -> WrittenRun:
        from training.ppt.recipes.compose import compose_objects

        return compose_objects(source, location, config, on_progress=on_progress, on_wait=on_wait)

    _run("D_ref", out, preset, config_file, assignments or (), work)


@app.command("pairs")
def pairs(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A finished run or import: images and kept texts.", show_default=False)
    ],
    out: options.Out,
    preset: Preset = "tiny",
    config_file: options.ConfigFile = None,
    assignments: options.Assignments = None,
) -> None:
    """H_sem and H_ref: a mask for each noun phrase of a text; one of them is kept, of several none is decided."""

    def work(
        config: RecipeConfig, location: RunLocation, on_progress: OnProgress, on_wait: Callable[[str], None]
    ) -> WrittenRun:
        from training.ppt.recipes.pairs import pair_candidates

        return pair_candidates(run, location, config, on_progress=on_progress, on_wait=on_wait)

    _run("H", out, preset, config_file, assignments or (), work)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"--names {path} cannot be read ({error.strerror}): give a CSV file") from None


def _run(
    title: str, out: str, preset: str, config_file: Path | None, words: list[str] | tuple[str, ...], work: Work
) -> None:
    from training.ppt.recipes.config import load_recipe_config

    config = load_recipe_config(preset, config_file, words)
    location = RunLocation.open(out, config.run.source.endpoint_url, config.run.placement.storage)
    try:
        with _progress() as on_progress:
            written = work(config, location, on_progress, lambda text: report("note", text, "yellow"))
    except KeyboardInterrupt:
        report("stopped", f"nothing that is committed in {location.root} is lost", "yellow")
        report("to resume", "run the same command again", "yellow")
        raise typer.Exit(INTERRUPTED) from None
    stdout.print(_view(title, written, location), soft_wrap=True)


@contextmanager
def _progress() -> Iterator[OnProgress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=stdout, transient=True) as progress:
        task = progress.add_task("planning", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total, description="images")


def _view(title: str, written: WrittenRun, location: RunLocation) -> RenderableType:
    from training.ppt.recipes.counting import count_pairs

    totals, pairs = written.totals, count_pairs(location)
    table = facts_table(f"{location.root}: {title}")
    table.add_row(
        "images",
        f"{totals.images:,} of {written.header.num_images:,}: {totals.annotated:,} with masks, {totals.empty:,} "
        f"without, {totals.quarantined:,} quarantined",
    )
    table.add_row("masks", f"{totals.masks:,}")
    table.add_row("texts", f"{pairs.decided:,} with a referent, {pairs.undecided:,} undecided")
    table.add_row("candidates", f"{totals.expressions:,}, {pairs.a_text:.2f} a text")
    table.add_row("output", format_bytes(totals.output_bytes))
    if written.num_shards_before:
        table.add_row("before", f"{written.num_shards_before:,} of {written.header.num_shards:,} shards were committed")
    parts: list[RenderableType] = [table]
    if totals.reasons:
        parts += ["", reasons_view(dict(totals.reasons))]
    return Group(*parts, "", path_lines("tables", table_globs(location.uri)))
