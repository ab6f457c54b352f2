"""PhraseCut (VGPhraseCut_v0): phrases of Visual Genome's images, each of one or several instances.

    refer_{train,val,test,miniv}.json     a list of tasks: task_id, image_id, phrase, Polygons, …

`Polygons` is [instance][polygon][point][x, y]; several polygons are one instance. Boxes, ids of Visual Genome's objects
and the structure of a phrase are not read.

Source: "Annotation data structure" in the README of github.com/ChenyunWu/PhraseCutDataset.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.training.imports.human_annotation import (
    Annotation,
    HumanImage,
    HumanMask,
    HumanPhrase,
    LeftOut,
    clean_texts,
    read_json,
    shown,
)

FILE_NAME: Final = "refer_{split}.json"
_SPLIT: Final = re.compile(r"refer_(\w+)\.json")
_MIN_POINTS: Final = 3


def read_phrasecut(files: Mapping[str, bytes]) -> Annotation:
    """Return the phrases of files of tasks. Equal instances of an image are one mask, whichever phrases name them.

    Args:
        files: The documents by their names, whole; the split of a phrase is in its file's name.

    Raises:
        ConfigError: A file is not one of PhraseCut's. The message names the task.
    """
    left_out = LeftOut()
    masks: defaultdict[str, dict[str, HumanMask]] = defaultdict(dict)
    phrases: defaultdict[str, dict[HumanPhrase, None]] = defaultdict(dict)
    for name, data in files.items():
        match = _SPLIT.fullmatch(name)
        for place, task in enumerate(_tasks(data, name)):
            where = f"{name}: task {place}"
            path = _path(task, where)
            targets = {_mask(polygons, masks[path]).index for polygons in _instances(task, left_out, where)}
            if not targets:
                left_out.add("phrases without an instance")
                continue
            for text in clean_texts([task.get("phrase")], left_out, where=where):
                phrase = HumanPhrase(tuple(sorted(targets)), text, match[1] if match else None)
                left_out.add("repeated phrases of the same instances", phrase in phrases[path])
                phrases[path][phrase] = None
    images = tuple(HumanImage(path, None, tuple(masks[path].values()), tuple(said)) for path, said in phrases.items())
    return Annotation(images, {name: sha256_hex(data) for name, data in files.items()}, left_out)


def _tasks(data: bytes, name: str) -> list[dict[str, Any]]:
    tasks = read_json(data, name)
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise ConfigError(f"{name} is not a list of PhraseCut's tasks. Give refer_{{train,val,test,miniv}}.json.")
    return tasks


def _path(task: Mapping[str, Any], where: str) -> str:
    number = task.get("image_id")
    if not isinstance(number, int) or isinstance(number, bool):
        raise ConfigError(f"{where} has the image_id {shown(number)}. A whole number of Visual Genome is needed.")
    return f"{number}.jpg"


def _instances(task: Mapping[str, Any], left_out: LeftOut, where: str) -> list[list[list[Any]]]:
    """Return the polygons of each instance in COCO's form; their numbers are unchecked."""
    if "Polygons" not in task:
        raise ConfigError(f"{where} has no Polygons. Files refer_input_… are questions alone: give refer_….json.")
    instances = task["Polygons"]
    try:
        polygons = [[[(x, y) for x, y in polygon] for polygon in instance] for instance in instances]
    except (TypeError, ValueError):
        raise ConfigError(f"{where} has Polygons of another form than [instance][polygon][point][x, y].") from None
    few = sum(len(polygon) < _MIN_POINTS for instance in polygons for polygon in instance)
    left_out.add("polygons of fewer than three points", few)
    return [
        [[value for point in polygon for value in point] for polygon in instance if len(polygon) >= _MIN_POINTS]
        for instance in polygons
    ]


def _mask(polygons: list[list[Any]], known: dict[str, HumanMask]) -> HumanMask:
    index = len(known)
    return known.setdefault(json.dumps(polygons), HumanMask(index, index, polygons))
