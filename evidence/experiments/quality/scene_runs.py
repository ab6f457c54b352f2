"""Runs that students learn from: scenes of simulated annotators, and the same images annotated by the pipeline.

    python -m evidence.experiments.quality.scene_runs OUT --split test --scenes 150 [--world second]

writes the first kind through `pseudoris import`: true masks, and what simulated annotators say of each object. So
training on the truth, and evaluation on held-out scenes, use the same code as pseudo-labels. Parts of the page, `ppt`
and `ppt_data` call it. Students learn from scenes that no model was trained on (`FIRST_UNSEEN`).
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import torch
import typer
from PIL import Image

from evidence.experiments.quality.parts import Options
from evidence.recipes.simulated_expressions import first_voice_expressions, kinds_of
from pseudoris.files.location import RunLocation
from pseudoris.interchange.imports import ImportRequest, import_annotation
from pseudoris.primitives import rle
from pseudoris.schemas.config_layers import config_hash, load_config
from pseudoris.schemas.estimate import Estimate
from pseudoris.schemas.ids import image_id
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.manifest import is_manifest_complete
from pseudoris.store.runs.receipts import list_receipts
from pseudoris.synthworld.demo import scene_truth
from pseudoris.synthworld.renderer import RenderedScene, render
from pseudoris.synthworld.scene_truth import SceneTruth
from pseudoris.synthworld.scenes import DEFAULT_WORLD, Scene, Split, make_scene
from pseudoris.training.evaluation.human_truth import open_truth
from pseudoris.training.evaluation.run_evaluation import evaluate_run
from pseudoris.training.evaluation.truth import Truth

# Words alone; a place in the picture or in a row; a relation to another object.
KINDS: Final = ("attribute", "position", "relation")
ALL_KINDS: Final = ("all", *KINDS)
KINDS_NAME: Final = "kinds.json"


def write_kinds(folder: Path, kinds: Mapping[str, Mapping[str, str]]) -> None:
    """Write the kind of each expression, by the image's file name and the text, beside the run in `folder`."""
    named = {image_id(name): found for name, found in kinds.items()}
    (folder / KINDS_NAME).write_text(json.dumps(named) + "\n", encoding="utf-8")


def read_kinds(run: str) -> dict[str, dict[str, str]]:
    """Return the kind of each expression of a run, by the id of its image and the text."""
    found: dict[str, dict[str, str]] = json.loads((Path(run).parent / KINDS_NAME).read_text(encoding="utf-8"))
    return found


EXAMPLES: Final = Path(__file__).parents[3] / "examples"
IMAGES_FOLDER, RUN_FOLDER = "images", "run"
TRUTH_NAME, ANNOTATION_NAME = "truth.json", "annotation.json"
# The models of `tiny` were trained on at most the first 9,900 training scenes; nobody has seen these.
FIRST_UNSEEN: Final = 10_000
# For `pseudo_run`: the composer with its defaults.
COMPOSING: Final = "composing={}"


@dataclass(frozen=True)
class SceneRun:
    """`count` scenes of a split of a world, from a position on."""

    split: Split
    count: int
    first: int = 0
    world: str = DEFAULT_WORLD

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.world}-{self.split}-{self.first}-{self.count}"

    def all(self) -> list[Scene]:
        """Return the scenes."""
        return [make_scene(self.split, self.first + at, world=self.world) for at in range(self.count)]


def training_scenes(count: int, world: str = DEFAULT_WORLD) -> SceneRun:
    """Return scenes for students to learn from."""
    return SceneRun(Split.TRAIN, count, FIRST_UNSEEN, world)


def true_run(options: Options, scenes: SceneRun) -> str:
    """Return the run of a set of scenes with their true masks and simulated expressions, written unless it stands."""
    return str(imported_scenes(_folder(options, scenes), scenes))


def pseudo_run(
    options: Options,
    scenes: SceneRun,
    *,
    preset: str = "tiny",
    composing: str | None = None,
    example: str | None = None,
) -> str:
    """Return the run that `pseudoris annotate` makes of the same images, and goes on with what stands.

    Args:
        options: Of the whole.
        scenes: Which.
        preset: Of the tiny models.
        composing: How expressions with positions and relations are composed too, as `--set` takes it; None without.
        example: A file of examples/ with more of the method; None without.

    Raises:
        RuntimeError: The command failed; its last lines are in the message.
    """
    true_run(options, scenes)
    folder = _folder(options, scenes)
    method = [] if composing is None else [composing]
    file = None if example is None else EXAMPLES / example
    # By the whole method, weights included: another one never takes its figures from these tables.
    config = load_config(preset, file, method)
    out = folder / f"{'pseudo' if config.composing is None else 'composed'}-{config_hash(config)[:8]}"
    if not _is_done(out):
        arguments = ["annotate", str(folder / IMAGES_FOLDER), str(out), "--preset", preset]
        chosen = [] if file is None else ["--config", str(file)]
        settings = [word for each in ("placement.address=local", *method) for word in ("--set", each)]
        command = [sys.executable, "-m", "pseudoris", *arguments, *chosen, *settings]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return str(out)


def _folder(options: Options, scenes: SceneRun) -> Path:
    return options.out / "runs" / scenes.name


def _is_done(out: Path) -> bool:
    if not out.exists():
        return False
    location = RunLocation.open(str(out))
    receipts = list_receipts(location)
    # A run that was stopped before its first commit has nothing that its manifest could lack.
    return bool(receipts) and is_manifest_complete(location, receipts)


def said_by_annotators(scene: Scene, number: int) -> list[str]:
    """Return the two or three expressions of an object that `evidence.recipes.simulated_expressions` gives it."""
    return [each.text for each in first_voice_expressions(scene, number)]


def image_name(number: int) -> str:
    """Return the file name of an image, counted from 0 in its set of scenes."""
    return f"scene-{number:05d}.png"


def imported_scenes(folder: Path, scenes: SceneRun) -> Path:
    """Write scenes and their annotation below a folder, import them, and return the run; what is done stays done.

    The images, `folder/images/scene-00000.png` and on, embedded in the run too, can be annotated by models as any
    other folder, `folder/truth.json` is the truth of `pseudoris evaluate`, and the kinds of the expressions stand
    beside it.

    Args:
        folder: Of this set of scenes alone.
        scenes: Which.
    """
    run = RunLocation.open(str(folder / RUN_FOLDER))
    if not list_receipts(run):
        write_scenes(folder, scenes.all())
    if not (folder / KINDS_NAME).exists():
        write_kinds(folder, {image_name(at): kinds_of(scene) for at, scene in enumerate(scenes.all())})
    words = ("shards.max_images=64", "shards.embed_images=true")
    return imported(folder / ANNOTATION_NAME, folder / IMAGES_FOLDER, folder / RUN_FOLDER, "coco", words)


def imported(
    annotation: Path,
    images: Path,
    out: Path,
    form: Literal["refer", "grefcoco", "coco"],
    words: Sequence[str] = (),
    splits: tuple[str, ...] = (),
) -> Path:
    """Import annotation into the run `out`, in silence, and return this; what is done stays done."""
    config, workers = load_config("tiny", None, words), len(os.sched_getaffinity(0))
    request = ImportRequest(str(annotation), str(images), config, form, splits=splits, num_workers=workers)
    run = RunLocation.open(str(out))
    import_annotation(request, run, on_progress=lambda done, total: None, on_wait=lambda text: None)
    return out


def write_scenes(folder: Path, scenes: Sequence[Scene]) -> None:
    """Write the images, the truth, and COCO JSON with captions an object."""
    (folder / IMAGES_FOLDER).mkdir(parents=True, exist_ok=True)
    truth: dict[str, Any] = {}
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for number, scene in enumerate(scenes):
        name = image_name(number)
        painted = render(scene)
        (folder / IMAGES_FOLDER / name).write_bytes(_png(painted.image))
        height, width = painted.image.shape[:2]
        truth[name] = scene_truth(scene)
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        objects += _objects(scene, painted, number, len(objects))
    document = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "object"}]}
    (folder / TRUTH_NAME).write_text(json.dumps(truth) + "\n", encoding="utf-8")
    (folder / ANNOTATION_NAME).write_text(json.dumps(document) + "\n", encoding="utf-8")


def _objects(scene: Scene, painted: RenderedScene, image: int, first: int) -> list[dict[str, Any]]:
    """Return COCO's rows of a scene's objects; one that others hide whole has no mask and no row."""
    counts = rle.encode(torch.from_numpy(painted.masks))
    size = (painted.masks.shape[1], painted.masks.shape[2])
    rows: list[dict[str, Any]] = []
    for number, area in enumerate(rle.areas(counts, size).tolist()):
        if area:
            segmentation = {"size": list(size), "counts": counts[number]}
            named = {"id": first + len(rows), "image_id": image, "category_id": 1, "iscrowd": 0, "area": area}
            rows.append({**named, "segmentation": segmentation, "captions": said_by_annotators(scene, number)})
    return rows


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def judged_run(run: str) -> tuple[RunLocation, Truth]:
    """Return where a run lives, and the truth of its scenes."""
    location = RunLocation.open(run)
    return location, open_truth("synthworld", require_header(location), SceneTruth)


def judged_sets(run: str) -> Mapping[str, Mapping[str, Estimate]]:
    """Return the figures of each set of expressions: `kept`, `all`, and each decoder's."""
    return evaluate_run(*judged_run(run)).sets


def main(
    out: Annotated[Path, typer.Argument(help="A folder; the run is OUT/run.")],
    split: Annotated[Split, typer.Option(help="Which scenes.")] = Split.TEST,
    scenes: Annotated[int, typer.Option(min=1, help="How many.")] = 150,
    first: Annotated[int, typer.Option(min=0, help="The position of the first.")] = 0,
    world: Annotated[str, typer.Option(help="One of synthworld's.")] = DEFAULT_WORLD,
) -> None:
    """Write scenes as a run of human annotation."""
    typer.echo(imported_scenes(out, SceneRun(split, scenes, first, world)))


if __name__ == "__main__":
    typer.run(main)
