"""Drawn scenes dressed as the downloads of the benchmarks: REFER's datasets over train2014, and PhraseCut; and runs."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evidence.recipes.simulated_expressions import first_voice_expressions
from examples.step_log import Step
from pseudoris.synthworld.attributes import CATEGORIES
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import Scene, Split, make_scene
from tests.builders.human import image_row, object_row, reference, rle, write_refer
from tests.builders.images import encode

# Files of references, and the held-out splits of each.
DATASETS = {
    ("refcoco", "unc"): ("val", "testA"),
    ("refcoco+", "unc"): ("val", "testA"),
    ("refcocog", "umd"): ("val", "test"),
}
# Of the categories REFER knows all but these, so that PhraseCut has unseen ones.
NUM_UNSEEN = 4
SEEN = tuple(CATEGORIES)[:-NUM_UNSEEN]


@dataclass(frozen=True)
class Miniature:
    """Where the downloads lie."""

    refer: Path
    train2014: Path
    phrasecut: Path


def write_miniature(root: Path, *, num_train: int, num_held_out: int) -> Miniature:
    """Write scenes as each download has them; `num_held_out` of each held-out split, and of PhraseCut's test."""
    refer, train2014, phrasecut = root / "refer", root / "train2014", root / "VGPhraseCut_v0"
    train2014.mkdir(parents=True)
    splits = ["train"] * num_train + ["first"] * num_held_out + ["second"] * num_held_out
    scenes = [make_scene(Split.TRAIN, 20_000 + number) for number in range(len(splits) + num_held_out)]
    images, objects, said = [], [], []
    for number, (scene, split) in enumerate(zip(scenes, splits, strict=False), start=1):
        name = f"COCO_train2014_{number:012d}.jpg"
        masks = _paint(scene, train2014 / name)
        images.append(image_row(number, name, height=masks.shape[1], width=masks.shape[2]))
        for place in np.flatnonzero(masks.any((1, 2))).tolist():
            objects.append(_object(len(objects) + 1, number, scene, place, masks))
            said.append((objects[-1], [each.text for each in first_voice_expressions(scene, place)], split))
    categories = [{"id": at, "name": name} for at, name in enumerate(CATEGORIES) if name in SEEN]
    document = json.dumps({"images": images, "annotations": objects, "categories": categories})
    for (dataset, split_by), (first, second) in DATASETS.items():
        named = {"train": "train", "first": first, "second": second}
        refs = []
        for row, texts, split in said:
            name = f"COCO_train2014_{row['image_id']:012d}_{row['id']}.jpg"
            refs.append(reference(row["id"], row["id"], row["image_id"], *texts, split=named[split], file_name=name))
        (refer / dataset).mkdir(parents=True)
        (refer / dataset / "instances.json").write_text(document)
        (refer / dataset / f"refs({split_by}).p").write_bytes(pickle.dumps(refs, 2))
    _write_phrasecut(phrasecut, scenes[len(splits) :])
    return Miniature(refer, train2014, phrasecut)


def small_refer(root: Path, *splits: str) -> Path:
    """Write the three datasets, RefCOCOg by both splits, a reference of each split; images are never opened."""
    images = [image_row(number, f"COCO_train2014_{number:012d}.jpg") for number in range(len(splits))]
    objects = [object_row(number, number) for number in range(len(splits))]
    refs = [reference(number, number, number, "a", split=split) for number, split in enumerate(splits)]
    for name in ("refcoco", "refcoco+", "refcocog"):
        write_refer(root / name, images, objects, refs)
    named = root / "refcocog" / "refs(unc).p"
    (root / "refcocog" / "refs(google).p").write_bytes(named.read_bytes())
    named.rename(root / "refcocog" / "refs(umd).p")
    return root


def run_example(name: str, *words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run an example as the README does, and return what it printed; it must end with the exit code `code`."""
    command = [sys.executable, "-m", f"examples.{name}", *map(str, words)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended


def assert_in_order(steps: Sequence[Step], *folders: Path) -> None:
    """Every step is there once, and reads below `folders` only what an earlier one has written."""
    assert len({step.name for step in steps}) == len(steps)
    made: list[str] = []
    for step in steps:
        at = step.words.index("--out") + 1 if "--out" in step.words else None
        at = {"annotate": 2, "refilter": 2, "ppt": 3, "import": 3}.get(step.words[0], at)
        wrote = [] if at is None else [step.words[at]]
        read = {word for word in step.words if word.startswith(tuple(map(str, folders)))}.difference(wrote)
        assert all(any(Path(each).is_relative_to(before) for before in made) for each in read), step
        made += wrote


def page_rows(page: str) -> list[list[str]]:
    """Return the cells of a page's first table."""
    lines = page.split("| --- |", 1)[1].splitlines()[1:]
    return [line.strip("| ").split(" | ") for line in lines[: lines.index("")]]


def _paint(scene: Scene, path: Path) -> NDArray[np.bool_]:
    painted = render(scene)
    # A decoder goes by the bytes: the models of `tiny` know PNG, COCO's names end in .jpg.
    path.write_bytes(encode(painted.image))
    return np.asarray(painted.masks)


def _object(number: int, image: int, scene: Scene, place: int, masks: NDArray[np.bool_]) -> dict[str, Any]:
    category = list(CATEGORIES).index(scene.objects[place].attributes.category)
    fields = {"category_id": category, "iscrowd": 0, "area": int(masks[place].sum()), "bbox": [0, 0, 1, 1]}
    return {"id": number, "image_id": image, "segmentation": rle(masks[place]), **fields}


def _write_phrasecut(folder: Path, scenes: list[Scene]) -> None:
    """Write a task for each category of each scene, whose instances are all objects of it."""
    (folder / "images").mkdir(parents=True)
    tasks: list[dict[str, Any]] = []
    for number, scene in enumerate(scenes, start=1):
        masks = _paint(scene, folder / "images" / f"{number}.jpg")
        instances: dict[str, list[Any]] = {}
        for item, mask in zip(scene.objects, masks, strict=True):
            if mask.sum() > 1:
                instances.setdefault(item.attributes.category, []).append([_polygon(mask)])
        for name, polygons in instances.items():
            tasks.append(
                {
                    "task_id": f"{number}__{len(tasks)}",
                    "image_id": number,
                    "ann_ids": list(range(len(polygons))),
                    "instance_boxes": [[0, 0, 1, 1] for _ in polygons],
                    "Polygons": polygons,
                    "phrase": name,
                    "phrase_structure": {"name": name, "attributes": [], "relation_descriptions": [], "type": "name"},
                }
            )
    (folder / "refer_test.json").write_text(json.dumps(tasks))


def _polygon(mask: NDArray[np.bool_]) -> list[list[int]]:
    """Return points down the left edge of a mask and up its right one."""
    rows = np.flatnonzero(mask.any(1)).tolist()
    left = [[int(mask[row].argmax()), row] for row in rows]
    right = [[int(mask.shape[1] - mask[row, ::-1].argmax()), row] for row in rows]
    return [*left, *reversed(right)]
