"""What do further sentences of an export add to a student? It learns from exported files alone, with and without them.

    python -m experiments.exported_rewordings OUT

exports a run as REFER files with `--rewording` 0 and 3, imports them, trains choosers of equal steps, and asks them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import pseudoris
from experiments.quality.parts import Options
from experiments.quality.scene_runs import SceneRun, imported, pseudo_run, training_scenes, true_run
from experiments.quality.student_arms import Arm, by_kind, train_arms
from experiments.quality.students import BEST_PRESET, OF_ONE_MASK
from pseudoris.synthworld.scenes import Split

FIRST_FRESH = 90_000


def exported(run: str, folder: Path, number: int) -> str:
    """Return the run that an import makes of the REFER files of a run, written unless they stand."""
    if not (folder / "run").exists():
        pseudoris.export(run, folder / "refer", "refer", masks="rle", rewording=number, overwrite=True)
    images = folder / "refer/images/mscoco/images/train2014"
    return str(imported(folder / "refer/refcoco", images, folder / "run", "refer"))


def main(
    out: Annotated[Path, typer.Argument(help="A folder; what is done there stays done.")],
    scenes: Annotated[int, typer.Option(help="Training scenes, and as many fresh ones.")] = 150,
    seeds: Annotated[int, typer.Option(help="Students of each kind.")] = 5,
    steps: Annotated[int, typer.Option(help="Of a training.")] = 150,
) -> None:
    """Export, import, train, ask, and write the figures."""
    options, length = Options(out), (f"training.num_steps={steps}",)
    run = pseudo_run(options, training_scenes(scenes), preset=BEST_PRESET, composing=OF_ONE_MASK)
    runs = {f"rewording {number}": exported(run, out / f"rewording-{number}", number) for number in (0, 3)}
    groups = {name: [Arm((own,), assignments=length, seed=seed) for seed in range(seeds)] for name, own in runs.items()}
    record: dict[str, Any] = {"scenes": scenes, "first_fresh": FIRST_FRESH, "seeds": seeds, "steps": steps}
    for voice in ("first", "second"):
        val = true_run(options, SceneRun(Split.TEST, scenes, FIRST_FRESH, voice=voice))
        found = train_arms(options, groups, val, shown=f"asked in the {voice} voice")
        record[voice] = {name: by_kind(found, name) for name in groups}
        record[voice]["difference"] = found.difference(*reversed(groups))
    (out / "student-rewording.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
