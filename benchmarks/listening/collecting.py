"""The candidates of scenes with all their scores and the oracle's verdicts, computed once and kept as Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import track

from benchmarks.oracle.judging import candidates_of
from schemas.confidence import CONFIDENCE_COLUMNS, Rated
from schemas.config import RunConfig
from schemas.keeping import Flags, Floats
from schemas.shard import ShardImage
from synthworld.scenes import Split, make_scene
from synthworld.shards import SceneImage, scene_image, scene_shard
from synthworld.truth import SceneImageTruth
from training.evaluation.counting import judge, match_image
from workers.captions import CocaCaptioner
from workers.filtering import ClipScorer
from workers.masks import SamProposer

_CHUNK = 5


@dataclass(frozen=True)
class SceneSet:
    """Which scenes: a split's first `num_scenes`, in a world, under settings of the preset `tiny`."""

    split: Split
    num_scenes: int
    world: str = "default"
    with_true_masks: bool = False


@dataclass(frozen=True)
class SceneRows:
    """One scene's T candidates.

    Attributes:
        rated: As the filter stage has them; groups are mask ids.
        is_right: (T,) bool, refers to its mask's object and to nothing else.
        targets: (T,) int64, its mask's object; -1 where that is none.
        num_masks: Masks of the image.
        num_visible: Objects of the truth with a pixel.
    """

    rated: Rated
    is_right: Flags
    targets: np.ndarray
    num_masks: int
    num_visible: int


def collect(config: RunConfig, scenes: SceneSet, path: Path | None, *, processes: int) -> list[SceneRows]:
    """Return the candidates of scenes; read from `path` where that stands, else annotated, and written there."""
    if path is not None and path.exists():
        return [_from_row(row) for row in pq.read_table(path).to_pylist()]
    starts = range(0, scenes.num_scenes, _CHUNK)
    chunks = [range(start, min(start + _CHUNK, scenes.num_scenes)) for start in starts]
    with ProcessPoolExecutor(processes) as pool:
        jobs = [pool.submit(_annotate, config.model_dump_json(), scenes, chunk) for chunk in chunks]
        shown = track(jobs, description=f"{scenes.split}, {scenes.world}", console=Console(stderr=True))
        rows = [row for job in shown for row in job.result()]
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), path)
    return [_from_row(row) for row in rows]


@lru_cache(maxsize=1)
def _stages(config_json: str) -> tuple[SamProposer, CocaCaptioner, ClipScorer]:
    """The models of a configuration, loaded once a process."""
    config = RunConfig.model_validate_json(config_json)
    return (
        SamProposer(config.masks, config.compute),
        CocaCaptioner(config.captions, config.compute),
        ClipScorer(config.filtering, config.compute),
    )


def _annotate(config_json: str, scenes: SceneSet, positions: range) -> list[dict[str, Any]]:
    propose, caption, score = _stages(config_json)
    images = [scene_image(make_scene(scenes.split, position, world=scenes.world)) for position in positions]
    shard = scene_shard(images, with_true_masks=scenes.with_true_masks)
    done = score(caption(shard if scenes.with_true_masks else propose(shard)))
    return list(_rows(images, done.images))


def _rows(images: Sequence[SceneImage], annotated: Sequence[ShardImage]) -> Iterator[dict[str, Any]]:
    for truth, image in zip(images, annotated, strict=True):
        said = candidates_of(image, lambda expression: expression.kept)
        known = SceneImageTruth(truth.scene, truth.masks)
        matched = match_image(known, said)
        verdicts = judge(known, said, matched.object_of_mask)
        scores = {name: [getattr(each, name) for each in image.expressions] for name in CONFIDENCE_COLUMNS[:-1]}
        yield {
            "groups": [each.target_mask_ids[0] for each in image.expressions],
            "texts": list(said.texts),
            **scores,
            "count": [float(len(each.samples)) for each in image.expressions],
            "is_right": verdicts.is_right.tolist(),
            "targets": verdicts.target.tolist(),
            "num_masks": len(image.masks),
            "num_visible": int(matched.is_visible.sum()),
        }


def _from_row(row: dict[str, Any]) -> SceneRows:
    scores: dict[str, Floats] = {name: np.array(row[name], np.float64) for name in CONFIDENCE_COLUMNS}
    rated = Rated(row["groups"], row["texts"], scores)
    is_right = np.array(row["is_right"], np.bool_)
    return SceneRows(rated, is_right, np.array(row["targets"], np.int64), row["num_masks"], row["num_visible"])
