"""`pseudoris demo`: annotates bundled scenes with two presets and compares them with the truth. Called by `main`.

It must run offline on a CPU in about two minutes, with the code and commands of real runs, on a Ray of its own.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

import pyarrow.compute as pc
import typer
from rich.table import Table

from pseudoris.cli import annotate, gallery
from pseudoris.cli.console import stdout
from pseudoris.cli.formats import columns_table, command, path_lines
from pseudoris.cli.options import option
from pseudoris.files.location import RunLocation
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import config_hash, load_config
from pseudoris.schemas.tables import EXPRESSIONS
from pseudoris.store.reports.run_status import run_status
from pseudoris.store.runs.header import require_header
from pseudoris.store.tables.open_run import OpenRun

# The demo compares the paper's method with the composed variant, from which a student learns more.
PRESETS: Final = ("tiny", "tiny-composed")
# The comparison shows these figures of `pseudoris evaluate`, each with its title and its number of decimals.
_FIGURES: Final = {
    "accuracy": ("share that is right", 3),
    "coverage": ("objects with a right one", 3),
}
_NUM_SAMPLE_ROWS = 3
_ABSENCE: Final = "kind none is an absence: no object of its image fits the text, so that a model learns to say so"
# These columns fit beside the text into 80 letters. The key says whether the run has composed expressions.
_SAMPLE_COLUMNS: Final = {
    False: ("text", "uniqueness", "correctness", "distinctiveness"),
    True: ("text", "kind", "confidence"),
}


def demo(
    folder: Annotated[Path, typer.Argument(help="Folder for the scenes and the runs.")] = Path("demo-out"),
    scenes: Annotated[int, option("Number of scenes.", min=1, max=900)] = 64,
) -> None:
    """Annotate bundled scenes with the embedded models, offline, in two minutes.

    With two presets: one is the paper's method; the other listens and composes too, and models learn more from it.
    Some files are broken on purpose, to show how they are quarantined.
    """
    from pseudoris.synthworld.demo import TRUTH_FILE, write_demo
    from pseudoris.synthworld.scene_truth import SceneTruth
    from pseudoris.training.evaluation.human_truth import open_truth
    from pseudoris.training.evaluation.run_evaluation import evaluate_run

    images = write_demo(folder, num_scenes=scenes)
    runs: dict[str, str] = {}
    for preset in PRESETS:
        # The demonstration starts its own Ray, so that it never uses somebody's cluster.
        config = load_config(preset, assignments=["placement.address=local"])
        # The folder's name holds the config's hash: another config begins a new run, an equal one continues its run.
        runs[preset] = str(folder / f"{preset}-{scenes}-{config_hash(config)[:8]}")
        stdout.print(f"preset {preset}", style="bold")
        if exit_code := annotate.run(str(images), runs[preset], config):
            raise typer.Exit(exit_code)
        # The pages name it so. A file system without links has the long name alone.
        with suppress(OSError):
            (folder / preset).unlink(missing_ok=True)
            (folder / preset).symlink_to(Path(runs[preset]).name)
        stdout.print("", _sample_rows(RunLocation.open(runs[preset]), config), "")
    found, per_mask = [], []
    for out in runs.values():
        location = RunLocation.open(out)
        truth = open_truth(f"synthworld:{folder}/{TRUTH_FILE}", require_header(location), SceneTruth)
        found.append(evaluate_run(location, truth).sets["kept"])
        per_mask.append(run_status(location).per_mask.split()[0])
    table = columns_table(("", *runs), title="both against the truth of the scenes")
    for name, (title, digits) in _FIGURES.items():
        table.add_row(title, *(f"{figures[name].value:.{digits}f}" for figures in found))
    table.add_row("expressions per mask", *per_mask)
    stdout.print(table, "")
    for preset, out in runs.items():
        page = gallery.write_pages(out, sample=scenes)
        stdout.print(path_lines(preset, {"page": page, "next": command("verify", out)}), soft_wrap=True)


def _sample_rows(location: RunLocation, config: RunConfig) -> Table:
    """Return three rows of the expressions table: the best ones, of different masks or of different kinds."""
    is_composed = config.composing is not None
    columns = _SAMPLE_COLUMNS[is_composed]
    best, apart = columns[-1], "kind" if is_composed else "target_mask_ids"
    rows = OpenRun.at(location).table(EXPRESSIONS, tuple(dict.fromkeys((apart, "kept", *columns))))
    kept = rows.filter(pc.fill_null(pc.and_(rows["kept"], pc.is_valid(rows[best])), False))
    ranked = kept.sort_by([(best, "descending")]) if kept.num_rows else kept
    table = columns_table(columns, title=f"{_NUM_SAMPLE_ROWS} rows of {EXPRESSIONS}", num_texts=len(columns))
    best_of: dict[str, dict[str, object]] = {}
    for row in ranked.to_pylist():
        best_of.setdefault(str(row[apart]), row)
    for row in list(best_of.values())[:_NUM_SAMPLE_ROWS]:
        table.add_row(*(f"{row[each]:.3f}" if isinstance(row[each], float) else str(row[each]) for each in columns))
    if is_composed:
        table.caption, table.caption_justify = _ABSENCE, "left"
    return table
