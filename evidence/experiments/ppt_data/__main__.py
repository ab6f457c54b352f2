"""Makes PPT's four data sets on the synthetic world, compares them with the truth, and draws some pairs.

    python -m evidence.experiments.ppt_data FOLDER [--objects 200] [--scenes 100] [--json FILE] [--sheet FILE]

What FOLDER already holds is reused: other `--scenes` or `--objects` need another FOLDER.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from evidence.experiments.ppt_data.contact_sheet import draw_sheet
from evidence.experiments.ppt_data.pseudo_label_figures import object_ious, pair_figures, share_of_hits
from evidence.experiments.quality.scene_runs import SceneRun, imported_scenes
from evidence.recipes.object_centric import write_object_centric
from pseudoris.files.location import RunLocation
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.synthworld.scenes import Split
from pseudoris.training.ppt.pairs import LabelFrame, PairDataset, PairSpec
from pseudoris.training.ppt.recipes.d_ref import compose_objects
from pseudoris.training.ppt.recipes.grounded_runs import make_objects, pair_masks
from pseudoris.training.ppt.recipes.recipe_config import load_recipe_config

# How CLIP's response may prompt SAM; the points need a SAM that knows negative ones.
_GROUNDINGS = {
    "peak, by agreement": (),
    "peak, by predicted IoU": ("grounding.choice=predicted_iou",),
    "points": ("grounding.prompts=points",),
    "peak, by agreement, feature surgery": ("grounding.is_feature_surgery=true",),
}
_SAM_PROMPTS = "builtin:tiny/sam_prompts.safetensors"
_SHOWN = 5


def main(
    folder: Annotated[Path, typer.Argument(help="Where the data sets go.")],
    objects: Annotated[int, typer.Option(min=20, help="Object-centric images.")] = 200,
    scenes: Annotated[int, typer.Option(min=2, help="Development scenes with simulated expressions.")] = 100,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="As of `pseudoris ppt`.")] = None,
    sam_prompts: Annotated[str, typer.Option(help="Weights of the SAM for points.")] = _SAM_PROMPTS,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Draw pairs of each data set here.")] = None,
) -> None:
    """Measure and draw."""
    torch.set_num_threads(1)
    words = assignments or []
    # Other images than those that a user makes by default.
    images = write_object_centric(folder / "objects", num_images=objects, seed=1)
    figures: dict[str, Any] = {"images": objects, "scenes": scenes, "objects": {}}
    for name, own in _GROUNDINGS.items():
        sam = [f"masks.weights.uri={sam_prompts}"] if name == "points" else []
        config = load_recipe_config("tiny", None, [*words, *own, *sam])
        ious = object_ious(folder / "objects", config)
        figures["objects"][name] = {"miou": float(np.mean(ious)), "above_half": share_of_hits(ious)}
        typer.echo(f"{name}: mIoU {np.mean(ious):.3f}, above 0.5 {share_of_hits(ious):.2f}")
    runs = _runs(folder, images, scenes, words)
    figures["pairs"] = pair_figures(runs["human"], runs["H"])
    typer.echo(json.dumps(figures["pairs"], indent=1))
    if json_path is not None:
        json_path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if sheet is not None:
        _draw(sheet, runs)


def _runs(folder: Path, images: Path, scenes: int, words: list[str]) -> dict[str, RunLocation]:
    config = load_recipe_config("tiny", None, words)
    runs = {name: RunLocation.open(str(folder / name)) for name in ("D_sem", "D_ref", "H")}
    human = imported_scenes(folder / "scenes", SceneRun(Split.DEVELOPMENT, scenes))
    silent: dict[str, Any] = {"on_progress": lambda done, total: None, "on_wait": typer.echo}
    make_objects(str(images), runs["D_sem"], config, **silent)
    compose_objects(runs["D_sem"].root, runs["D_ref"], config, **silent)
    pair_masks(str(human), runs["H"], config, **silent)
    return {**runs, "human": RunLocation.open(str(human))}


def _draw(path: Path, runs: dict[str, RunLocation]) -> None:
    kinds = {kind: _first_of(runs["D_ref"], kind) for kind in ("position", "relation")}
    rows = [
        ("D_sem: the class in the middle", runs["D_sem"], _spread(len(_pairs(runs["D_sem"])), range(10**6))),
        ("D_ref, mosaics: absolute positions; contexts in orange", runs["D_ref"], kinds["position"]),
        ("D_ref, fusions: relations; contexts in orange", runs["D_ref"], kinds["relation"]),
        ("H_sem: one pseudo-mask, c = 1", runs["H"], _of_count(runs["H"], is_single=True)),
        ("H_ref: several pseudo-masks, none decided", runs["H"], _of_count(runs["H"], is_single=False)),
    ]
    draw_sheet(path, rows)


def _pairs(location: RunLocation) -> PairDataset:
    return PairDataset(location, PairSpec(num_points=1, frame=LabelFrame(16, 16)))


def _spread(size: int, among: Any) -> list[int]:
    """A few of the positions below `size` that are in `among`, evenly spaced."""
    there = [at for at in range(size) if at in among]
    return there[:: max(1, len(there) // _SHOWN)][:_SHOWN]


def _first_of(location: RunLocation, kind: str) -> list[int]:
    rows = OpenRun.at(location).table("expressions", ["image_id", "text", "kind"]).to_pylist()
    wanted = {(row["image_id"], row["text"]) for row in rows if row["kind"] == kind}
    pairs = _pairs(location)
    found = (pairs[at] for at in range(len(pairs)))
    return _spread(len(pairs), {at for at, each in enumerate(found) if (each.image_id, each.text) in wanted})


def _of_count(location: RunLocation, *, is_single: bool) -> list[int]:
    pairs = _pairs(location)
    return _spread(
        len(pairs), {at for at in range(len(pairs)) if (len(pairs[at].labels.confidences) == 1) == is_single}
    )


if __name__ == "__main__":
    typer.run(main)
