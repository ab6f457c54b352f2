"""Images of drawn candidates: a mask is a rectangle at a place, and what it was called how often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pseudoris.primitives.head_nouns import head_noun
from pseudoris.schemas.ids import mask_id
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord, MaskRecord, ShardImage
from pseudoris.schemas.stage_settings import ComposingConfig
from pseudoris.workers.composing.composer import Composer
from tests.builders.fitted import POSTERIOR
from tests.builders.human import box_mask
from tests.builders.scene_runs import mask_records

SIZE = 100
IMAGE_ID = "0123456789abcdef"
DRAW = CaptionSample("masked", "top_p", None, 0.9, -2.0, "all", 1)


def make_mask(index: int, centre: tuple[int, int], side: int = 10) -> MaskRecord:
    """Return a square around (x, y)."""
    x, y = (place - side // 2 for place in centre)
    (mask,) = mask_records(IMAGE_ID, box_mask((x, y, x + side, y + side), (SIZE, SIZE))[None])
    return replace(mask, mask_id=mask_id(IMAGE_ID, index), index=index)


def make_image(
    *masks: tuple[tuple[int, int], Mapping[str, int]] | tuple[tuple[int, int], Mapping[str, int], int],
    correctness: float | None = 0.7,
) -> ShardImage:
    """Return an image of masks: (centre, how often each caption was drawn), and a side if that is not 10."""
    records = [make_mask(index, centre, *side) for index, (centre, _, *side) in enumerate(masks)]
    expressions = [
        ExpressionRecord((mask.mask_id,), text, (DRAW,) * count, head_noun=head_noun(text), correctness=correctness)
        for mask, (_, drawn, *_) in zip(records, masks, strict=True)
        for text, count in drawn.items()
    ]
    image = ShardImage(0, IMAGE_ID, "a.png", b"", "0" * 64, SIZE, SIZE)
    return replace(image, masks=tuple(records), expressions=tuple(expressions))


def composer(**settings: object) -> Composer:
    """Return a composer with some settings and a seed, and some weights under `posterior`, by the names of each."""
    seed = int(str(settings.pop("seed", 0)))
    weights = dict(settings.pop("posterior", {}))
    bounds = {name: weights.pop(name) for name in list(weights) if name in ComposingConfig.model_fields}
    config = ComposingConfig.model_validate({**settings, **bounds})
    return Composer(config, POSTERIOR.model_copy(update=weights), seed=seed)


def composed(image: ShardImage, **settings: object) -> list[ExpressionRecord]:
    """Return what is composed for an image."""
    done = composer(**settings)(image)
    assert done.expressions[: len(image.expressions)] == image.expressions
    return list(done.expressions[len(image.expressions) :])


def texts(image: ShardImage, target: int | None = None, **settings: object) -> set[str]:
    """Return the texts composed for an image, of one mask where a target is named."""
    wanted = None if target is None else (mask_id(IMAGE_ID, target),)
    found = composed(image, **{"max_per_mask": 9, **settings})
    return {each.text for each in found if wanted is None or each.target_mask_ids == wanted}
