"""Runs over scenes of the synthetic world, made without a model: masks near the truth's, and texts of every quality."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from evidence.recipes.scene_shards import scene_image, scene_shard
from evidence.recipes.scene_texts import realise
from pseudoris.files.location import RunLocation
from pseudoris.primitives import rle
from pseudoris.schemas.fitted import CONFIDENCE_COLUMNS, Rated
from pseudoris.schemas.ids import mask_id, sha256_hex
from pseudoris.schemas.run_records import PlanEntry, RunHeader
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord, Failure, MaskRecord, ShardImage
from pseudoris.synthworld.attributes import COLOURS, Attributes
from pseudoris.synthworld.demo import scene_truth
from pseudoris.synthworld.grammar import Description
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import Scene, SceneObject, Split, make_scene
from pseudoris.training.calibration.confidence_fit import JudgedImage
from tests.builders.sources import entries_of
from tests.store.builders import commit_images, start_run

DRAWS = (("beam", None, None), ("top_k", 5, None), ("top_p", None, 0.4), ("top_p", None, 0.8))
# What becomes of an image of a scene; the default annotates it.
Change = Callable[[ShardImage], ShardImage]


def scenes(count: int) -> dict[str, Scene]:
    return {f"scene-{number:03d}.png": make_scene(Split.DEMO, number) for number in range(count)}


def plain_object(category: str, colour: str, x: float) -> SceneObject:
    """Return a large plain object of the middle row of a scene."""
    return SceneObject(Attributes(category, colour, "plain", "large"), (x, 96.0), 24.0, 0.0, (0, 0, 0))


def with_true_masks(scene: Scene, *said: tuple[int, str, dict], **common: object) -> ShardImage:
    """Return a scene with its true masks and expressions, (object, text, changes) of what they have in `common`."""
    image = scene_shard([scene_image(scene)], with_true_masks=True).images[0]
    ids = [mask.mask_id for mask in image.masks]
    expressions = (ExpressionRecord((ids[at],), text, **{**common, **changes}) for at, text, changes in said)
    return replace(image, expressions=tuple(expressions))


def judged_scene(seed: int) -> JudgedImage:
    """Return three masks' candidates, of which the true and unambiguous ones are right, but for noise."""
    draw = np.random.default_rng(seed)
    size, each = 36, 12
    scores = {name: draw.uniform(0.4, 1.0, size) for name in CONFIDENCE_COLUMNS}
    scores["truth"] = draw.uniform(-2, 0, size)
    scores["caption_score"] = scores["truth"] * 5
    scores["uniqueness"] = draw.uniform(0.7, 1.5, size)
    odds = 4 * (scores["truth"] + 1) + 6 * np.log(scores["uniqueness"])
    is_right = draw.random(size) < 1 / (1 + np.exp(-odds))
    scores["distinctiveness"] = draw.uniform(0.7, 1.5, size)
    groups = [f"{seed}-{n // each}" for n in range(size)]
    texts = [f"a {n % 3} {n}" for n in range(size)]
    return JudgedImage(Rated(groups, texts, scores), is_right, np.arange(size) // each, 3, 4)


def truth_bytes(known: dict[str, Scene], **broken: None) -> bytes:
    """Return a truth.json of scenes, as the demonstration set has it."""
    return json.dumps({**{key: scene_truth(scene) for key, scene in known.items()}, **broken}).encode()


def scene_run(
    location: RunLocation,
    known: dict[str, Scene],
    *,
    source: str = "images",
    per_shard: int = 2,
    committed: Sequence[int] | None = None,
    change: Change = lambda image: image,
    **header_changes: object,
) -> RunHeader:
    """Write a run over the scenes, all of it committed by default."""
    header = start_run(location, entries_of(known, per_shard=per_shard), source=source, **header_changes)
    for number in range(header.num_shards) if committed is None else committed:
        commit_images(location, header, lambda entry: change(annotated(entry, known[entry.key])), number)
    return header


def annotated(entry: PlanEntry, scene: Scene) -> ShardImage:
    """Return a scene with most of its masks, some of them ragged, one that is no object, and several texts a mask."""
    draw = random.Random(entry.image_id)
    masks = render(scene).masks
    shapes = [_ragged(mask, draw) for mask in masks[: max(1, len(masks) - draw.randint(0, 1))]]
    corner = np.zeros_like(masks[0])
    corner[:9, :9] = True
    proposed = np.stack([*shapes, corner])
    records = mask_records(entry.image_id, proposed)
    expressions = tuple(
        each
        for number, record in enumerate(records)
        for each in _expressions(record.mask_id, scene, min(number, len(scene.objects) - 1), draw)
    )
    height, width = masks.shape[1:]
    return ShardImage(
        entry.position,
        entry.image_id,
        entry.key,
        b"",
        sha256=sha256_hex(entry.key.encode()),
        height=height,
        width=width,
        masks=records,
        expressions=expressions,
    )


def scored(image: ShardImage, *, has_listened: bool = True) -> ShardImage:
    """Return an image whose candidates have scores of all sizes, a listener's too."""
    draw = np.random.default_rng(int(image.image_id[:8], 16))
    rows = []
    for each in image.expressions:
        good = draw.normal(0.0, 0.2)
        scores = {"uniqueness": 1 + good, "correctness": 0.5 + good / 5, "distinctiveness": 1 + good}
        if has_listened:
            scores |= {"caption_score": -3.0 + good, "listener": 0.5 + good / 5, "truth": -1.0 + good}
        rows.append(replace(each, **scores))
    return replace(image, expressions=tuple(rows))


def quarantined(image: ShardImage) -> ShardImage:
    return image.quarantined(Failure("read", "corrupt", "The bytes end in the middle of the image."))


def said(target: str, text: str, *decoders: str, kept: bool = True, **fields: object) -> ExpressionRecord:
    """Return an expression drawn once by each of the decoders."""
    settings = {"beam": (None, None), "top_k": (5, None), "top_p": (None, 0.4)}
    samples = tuple(CaptionSample("masked", each, *settings.get(each, (None, None)), -1.0) for each in decoders)
    return replace(ExpressionRecord((target,), text, samples, kept=kept), **fields)


def _ragged(mask: np.ndarray, draw: random.Random) -> np.ndarray:
    """Return a mask without some of its columns: its IoU with the truth is from 0.3 to 1."""
    columns = np.flatnonzero(mask.any(0))
    kept = mask.copy()
    kept[:, columns[: int(len(columns) * draw.choice([0, 0, 0.1, 0.3, 0.7]))]] = False
    return kept


def mask_records(image: str, masks: np.ndarray) -> tuple[MaskRecord, ...]:
    """Return the records of masks (N, H, W) bool."""
    counts = rle.encode(torch.from_numpy(masks))
    size = (masks.shape[1], masks.shape[2])
    boxes, areas = rle.boxes(counts, size), rle.areas(counts, size)
    return tuple(MaskRecord(mask_id(image, n), n, size, counts[n], boxes[n], int(areas[n])) for n in range(len(masks)))


def _expressions(target: str, scene: Scene, number: int, draw: random.Random) -> list[ExpressionRecord]:
    truth = scene.objects[number].attributes
    wrong = draw.choice([colour for colour in COLOURS if colour != truth.colour])
    whole = Description(truth.category, truth.colour, truth.pattern, truth.size, truth.part)
    texts = {
        realise(whole): None,
        realise(Description(truth.category)): None,
        realise(Description(truth.category, colour=truth.colour), opening="a photo of"): None,
        realise(Description(truth.category, colour=wrong, part="hat")): None,
        f"{truth.colour} and {truth.category}": None,
    }
    return [
        ExpressionRecord(
            (target,),
            text,
            tuple(CaptionSample("masked", *draw.choice(DRAWS), -1.0) for _ in range(draw.randint(1, 5))),
            kept=draw.random() < 0.6,
        )
        for text in texts
    ]
