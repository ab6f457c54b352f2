"""Where the next point of a student's mIoU is: masks, texts and objects of the annotation, crossed.

    nice python -m experiments.crossing [--out quality-out] [--seeds 2] [--json F]

Every student sees some objects of the same training scenes, with SAM's masks or the true ones, and with one of three
kinds of texts: every caption that was drawn of the object's mask; those of them that the oracle calls right; what
simulated annotators say. The objects are all of them, or those of which the shipped filter keeps a caption. Captions
reach a true mask by matching (IoU of at least 0.5); an object without a match has none, and is counted. All are asked
about development scenes.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from benchmarks.measurement import machine
from experiments.oracle import candidates_of
from experiments.quality.annotated_scenes import DISTINCTIVE, SceneSet, annotated_scenes
from experiments.quality.markdown_cells import as_json, cell, markdown_table
from experiments.quality.parts import Options
from experiments.quality.question_kinds import KINDS
from experiments.quality.scene_runs import FIRST_UNSEEN, SceneRun, said_by_annotators, training_scenes, true_run
from experiments.quality.student_arms import Answered, Arm, by_kind, seeded, train_arms
from experiments.quality.written_runs import write_run
from pseudoris.schemas.config_layers import config_hash
from pseudoris.schemas.ids import mask_id
from pseudoris.schemas.shard import SOURCE_HUMAN, ExpressionRecord, MaskRecord, ShardImage
from pseudoris.synthworld.scene_truth import SceneImageTruth
from pseudoris.synthworld.scenes import Scene, Split
from pseudoris.training.evaluation.truth import judge, match_image
from pseudoris.workers.masks import rle

Masks = Literal["SAM's", "true"]
Texts = Literal["drawn", "right", "simulated annotators'", "kept"]
Objects = Literal["all", "left by the filter"]
# Scenes on which choices are made.
_FIRST_ASKED, _NUM_ASKED = 2_000, 300


@dataclass(frozen=True)
class Cell:
    """What a student learns from."""

    masks: Masks
    texts: Texts
    objects: Objects

    @property
    def name(self) -> str:
        """For tables and folders."""
        return f"{self.masks} masks, {self.texts} texts, {self.objects} objects"


_MASKS: Final[tuple[Masks, ...]] = ("SAM's", "true")
_TEXTS: Final[tuple[Texts, ...]] = ("drawn", "right", "simulated annotators'")
_OBJECTS: Final[tuple[Objects, ...]] = ("all", "left by the filter")
# The last is what the filter leaves, without its masks that are no object.
CELLS: Final = (
    *itertools.starmap(Cell, itertools.product(_MASKS, _TEXTS, _OBJECTS)),
    Cell("SAM's", "kept", "left by the filter"),
)


@dataclass(frozen=True)
class CrossedScene:
    """A scene, its annotation, and which mask is which object.

    Attributes:
        scene: The truth.
        image: Annotated by SAM and the captioner; `kept` by the shipped filter.
        mask_of: The mask of each object that has one.
        right: By object, the drawn captions that mean it alone.
        drawn: By object, all captions of its mask.
    """

    scene: Scene
    image: ShardImage
    mask_of: Mapping[int, MaskRecord]
    right: Mapping[int, tuple[ExpressionRecord, ...]]
    drawn: Mapping[int, tuple[ExpressionRecord, ...]]

    @classmethod
    def of(cls, scene: Scene, image: ShardImage) -> CrossedScene:
        """Match masks to objects and judge every caption."""
        truth, candidates = SceneImageTruth(scene), candidates_of(image, lambda each: each.kept)
        object_of_mask = match_image(truth, candidates).object_of_mask
        verdicts = judge(truth, candidates, object_of_mask)
        masks = {mask.mask_id: mask for mask in image.masks}
        mask_of = {number: masks[name] for name, number in object_of_mask.items()}
        rows = list(zip(image.expressions, verdicts.target.tolist(), verdicts.is_right.tolist(), strict=True))
        drawn = {number: tuple(each for each, at, _ in rows if at == number) for number in mask_of}
        right = {number: tuple(each for each, at, is_right in rows if at == number and is_right) for number in mask_of}
        return cls(scene, image, mask_of, right, drawn)

    def of_cell(self, chosen: Cell) -> ShardImage:
        """Return the image with the masks, texts and objects of a cell."""
        pairs = list(self._pairs(chosen))
        masks = tuple(
            replace(mask, mask_id=mask_id(self.image.image_id, at), index=at) for at, (mask, _) in enumerate(pairs)
        )
        said = tuple(
            replace(each, target_mask_ids=(mask.mask_id,), rival_mask_id=None, kept=True)
            for mask, (_, texts) in zip(masks, pairs, strict=True)
            for each in texts
        )
        return replace(self.image, masks=masks, expressions=said)

    def _pairs(self, chosen: Cell) -> Iterator[tuple[MaskRecord, Sequence[ExpressionRecord]]]:
        true = SceneImageTruth(self.scene).masks
        for number in range(len(self.scene.objects)):
            texts = self._texts(chosen.texts, number)
            if not texts or (chosen.objects != "all" and not self.is_left(number)):
                continue
            is_true = chosen.masks == "true"
            mask = true_mask(self.image, true[number]) if is_true else self.mask_of.get(number)
            if mask is not None:
                yield mask, texts

    def is_left(self, number: int) -> bool:
        """Return whether the filter keeps a caption of an object."""
        return any(each.kept for each in self.drawn.get(number, ()))

    def _texts(self, texts: Texts, number: int) -> Sequence[ExpressionRecord]:
        if texts == "simulated annotators'":
            return [
                ExpressionRecord((), text, (), source=SOURCE_HUMAN) for text in said_by_annotators(self.scene, number)
            ]
        if texts == "right":
            return self.right.get(number, ())
        drawn = self.drawn.get(number, ())
        return drawn if texts == "drawn" else [each for each in drawn if each.kept]


def true_mask(image: ShardImage, counts: str) -> MaskRecord | None:
    """Return an object's true mask as a record; None if no pixel of it is seen."""
    size = (image.height or 0, image.width or 0)
    (area,) = rle.areas([counts], size).tolist()
    if not area:
        return None
    x0, y0, x1, y1 = (round(float(each)) for each in rle.boxes([counts], size)[0])
    return MaskRecord("", 0, size, counts, (x0, y0, x1, y1), area)


def counts_of(scenes: Sequence[CrossedScene]) -> dict[str, int]:
    """Return how many objects there are, how many have no mask, no right caption, and are left by the filter."""
    objects = [(scene, number) for scene in scenes for number in range(len(scene.scene.objects))]
    return {
        "objects": len(objects),
        "without_mask": sum(number not in scene.mask_of for scene, number in objects),
        "without_right_caption": sum(not scene.right.get(number) for scene, number in objects),
        "left_by_filter": sum(scene.is_left(number) for scene, number in objects),
    }


def measure(options: Options, *, num_scenes: int, num_seeds: int) -> dict[str, Any]:
    """Train on every cell, and ask all of them about development scenes."""
    runs = training_scenes(num_scenes)
    true_run(options, runs)
    scenes = SceneSet(Split.TRAIN, num_scenes, first=FIRST_UNSEEN)
    images = annotated_scenes(options, scenes, DISTINCTIVE)
    crossed = [CrossedScene.of(scene, image) for scene, image in zip(scenes.all(), images, strict=True)]
    folder = options.out / "runs" / runs.name
    groups = {each.name: seeded(options, _arm(folder, each, crossed), num_seeds=num_seeds) for each in CELLS}
    val = true_run(options, SceneRun(Split.DEVELOPMENT, options.pick(_NUM_ASKED, 20), _FIRST_ASKED))
    found = train_arms(options, groups, val, shown="students of every cell")
    return {
        "machine": machine(),
        "scenes": num_scenes,
        "asked": options.pick(_NUM_ASKED, 20),
        "seeds": num_seeds,
        **counts_of(crossed),
        "cells": {each.name: by_kind(found, each.name) for each in CELLS},
        "effects": effects(found),
    }


def effects(found: Answered) -> dict[str, dict[str, float | None]]:
    """Return what changing one thing alone is worth, from our annotation to the simulated one."""
    ours = Cell("SAM's", "drawn", "all")
    right = replace(ours, texts="right")
    steps = {
        "right captions alone": (right, ours),
        "simulated annotators' texts in place of right captions": (replace(ours, texts="simulated annotators'"), right),
        "true masks in place of SAM's, right captions": (replace(right, masks="true"), right),
        "only objects that the filter leaves, right captions": (replace(right, objects="left by the filter"), right),
        "only objects that the filter leaves, simulated annotators' texts": (
            Cell("SAM's", "simulated annotators'", "left by the filter"),
            Cell("SAM's", "simulated annotators'", "all"),
        ),
        "what the filter keeps in place of all that was drawn": (CELLS[-1], ours),
    }
    bootstrap = found.bootstrap()
    return {name: as_json(bootstrap.difference(more.name, less.name)) for name, (more, less) in steps.items()}


def _arm(folder: Path, chosen: Cell, scenes: Sequence[CrossedScene]) -> Arm:
    # By the whole method, as the runs that `pseudo_run` annotates.
    out = folder / f"crossed-{config_hash(DISTINCTIVE.config())[:8]}-{CELLS.index(chosen):02d}"
    if not out.exists():
        unfinished = out.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        write_run(folder, unfinished, [scene.of_cell(chosen) for scene in scenes])
        unfinished.rename(out)
    return Arm((str(out),))


def table(result: Mapping[str, Any]) -> str:
    """Return the cells and the effects as Markdown."""
    rows = [
        [name, cell(kinds["all"]), *(f"{kinds[kind]['value']:.3f}" for kind in KINDS)]
        for name, kinds in result["cells"].items()
    ]
    steps = [[name, cell(each, sign="+")] for name, each in result["effects"].items()]
    return f"{markdown_table(['learnt from', 'mIoU', *KINDS], rows)}\n\n{markdown_table(['change', 'mIoU'], steps)}"


def main(
    out: Annotated[Path, typer.Option(help="Folder of what is used again.")] = Path("quality-out"),
    seeds: Annotated[int, typer.Option(min=1, help="Of each cell.")] = 2,
    processes: Annotated[int, typer.Option(min=1, help="Of one thread each.")] = 2,
    scenes: Annotated[int, typer.Option(min=1, help="To train on.")] = 400,
    quick: Annotated[bool, typer.Option("--quick", help="A trial: few steps and questions.")] = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Cross masks, texts and objects, and print what each is worth."""
    options = Options(out, is_quick=quick, processes=processes)
    result = measure(options, num_scenes=scenes, num_seeds=seeds)
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    typer.echo(table(result))


if __name__ == "__main__":
    typer.run(main)
