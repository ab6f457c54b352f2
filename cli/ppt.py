"""`pseudoris ppt`: writes the training data of PPT (curriculum point prompting). Called by `main`.

`training/ppt/recipes` does the work. A command only parses, calls and prints. Recipes are imported inside it: `--help`
must load neither torch nor Ray.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pseudoris.cli import options
from pseudoris.cli.console import note, stdout
from pseudoris.cli.options import argument, option
from pseudoris.cli.progress import write_with_bar
from pseudoris.cli.summaries import written_view
from pseudoris.files.location import RunLocation

if TYPE_CHECKING:
    from pseudoris.store.sessions.thread_executor import WrittenRun

app = typer.Typer(no_args_is_help=True, help="Write the training data of PPT (curriculum point prompting), as runs.")

Preset = Annotated[str, option("--preset", "tiny (embedded, CPU) or paper (ViT-B/16, SAM ViT-B).")]


@app.command("objects")
def objects(
    folder: Annotated[str, argument("FOLDER", "Folder with one folder of images per class, CLASS/*.jpg.")],
    out: options.Out,
    names: Annotated[Path | None, option("--names", "CSV with columns folder,name: the names of the classes.")] = None,
    sample: Annotated[int | None, option("Take N images alone, drawn by compute.seed.", min=1, metavar="N")] = None,
    embed_images: options.EmbedImages = False,
    preset: Preset = "tiny",
    config_file: options.ConfigFile = None,
    assignments: options.Assignments = None,
    repair: options.Repair = False,
) -> None:
    """Write D_sem: one object per image, its mask, and "the [class name] in the middle".

    CLIP and SAM find the mask.
    """
    from pseudoris.training.ppt.recipes.grounded_runs import make_objects

    words = options.words(assignments, {"shards.embed_images": embed_images, "placement.repair": repair})
    recipe = partial(make_objects, folder, names=names, sample=sample, on_note=note)
    _run("D_sem", out, preset, config_file, words, recipe)


@app.command("compose")
def compose(
    source: Annotated[str, argument("D_SEM", "A finished run of `ppt objects`.")],
    out: options.Out,
    preset: Preset = "tiny",
    config_file: options.ConfigFile = None,
    assignments: options.Assignments = None,
    repair: options.Repair = False,
) -> None:
    """Write D_ref from D_sem: several objects per image, described by position or relation.

    Texts of a mosaic state positions in the image. A fusion pastes one object beside another:
    its texts state relations. Expressions of context masks are not kept.
    """
    from pseudoris.training.ppt.recipes.d_ref import compose_objects

    words = options.words(assignments, {"placement.repair": repair})
    _run("D_ref", out, preset, config_file, words, partial(compose_objects, source))


@app.command("pairs")
def pairs(
    run: Annotated[str, argument("RUN", "A finished run or import. Its images and kept texts are used.")],
    out: options.Out,
    preset: Preset = "tiny",
    config_file: options.ConfigFile = None,
    assignments: options.Assignments = None,
    repair: options.Repair = False,
) -> None:
    """Write H_sem and H_ref from a run: for each text, the masks that fit its noun phrases.

    If one mask fits a text, this pair is kept (H_sem). If several fit, no pair is kept (H_ref).
    """
    from pseudoris.training.ppt.recipes.grounded_runs import pair_masks

    words = options.words(assignments, {"placement.repair": repair})
    _run("H", out, preset, config_file, words, partial(pair_masks, run))


def _run(
    title: str, out: str, preset: str, config_file: Path | None, settings: list[str], recipe: Callable[..., WrittenRun]
) -> None:
    from pseudoris.training.ppt.recipes.recipe_config import load_recipe_config
    from pseudoris.training.ppt.recipes.recipe_runs import count_pairs

    config = load_recipe_config(preset, config_file, settings)
    location = RunLocation.open(out, config.run.source.endpoint_url, config.run.placement.storage)
    written = write_with_bar(location, partial(recipe, location, config), before="planning", during="images")
    pairs = count_pairs(location)
    a_text = pairs.pseudo_masks / max(1, pairs.decided + pairs.undecided)
    texts = [
        ("texts", f"{pairs.decided:,} with a referent, {pairs.undecided:,} undecided"),
        ("pseudo-masks", f"{written.totals.expressions:,}, {a_text:.2f} per text"),
    ]
    words = ("with masks", "without")
    stdout.print(written_view(location, written, title, texts=texts, words=words), soft_wrap=True)
