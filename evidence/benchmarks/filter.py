"""Measures the filter against the captioner, and against a filter that shares no work.

    python -m evidence.benchmarks.filter [--preset tiny] [--images 16] [--masks 8] [--repeats 5] [--caption-repeats 5]
    [--set KEY=VALUE …] [--json FILE]

Two rows. The first puts the captioner on the left: its ratio is how many times longer captioning takes than filtering
the same shard, and the note gives the share. The second is a filter that cuts each crop alone and embeds every
candidate's texts over the whole context, equal strings again and again, timed once; both must give the same scores.
`end_to_end` takes the bound of these, and `chain_sides` the second filter.

Without trained weights at hand `base` runs on random ones: `--set captions.weights.uri=random:0 --set
filtering.weights.uri=random:0`. Its random captions are of random words, nearly all distinct and of full length, and
share few prefixes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import open_clip
import torch

from evidence.benchmarks.crops import Case, in_float32, one_by_one
from evidence.benchmarks.measurement import Row, median_seconds, options, peak_rss_bytes, report
from evidence.recipes.scene_shards import scene_image, scene_shard
from pseudoris.images.pixels import decode_proven
from pseudoris.primitives.head_nouns import noun_prompt
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.shard import Shard, ShardImage
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.checkpoints.openclip import load_clip
from pseudoris.workers.filtering.clip_embedder import crop_format
from pseudoris.workers.filtering.scorer import score_candidates
from pseudoris.workers.filtering.spacy_nouns import noun_finder
from pseudoris.workers.stages import STAGES

# Strings a forward pass: bounds memory.
TEXTS_A_PASS = 256
MAX_SCORE_DIFFERENCE = 1e-3


def measure(config: RunConfig, *, num_images: int, max_masks: int, repeats: int, caption_repeats: int) -> list[Row]:
    """Return the two rows for a shard of scenes with their true masks; ValueError where scores differ.

    Args:
        config: Of both sides.
        num_images: Of the shard.
        max_masks: Of an image.
        repeats: Of filtering.
        caption_repeats: Of captioning.
    """
    scorer = STAGES[2].engine(config)(config.filtering, config.compute)
    plain = PlainFilter(config)
    shard = build_shard(num_images, max_masks)
    caption = STAGES[1].engine(config)(config.captions, config.compute)
    captioned = caption(shard)
    caption_s = median_seconds(lambda: caption(shard), repeats=caption_repeats, warm_ups=0)
    started = time.perf_counter()
    expected = plain(captioned)
    plain_s = time.perf_counter() - started
    difference = largest_difference(scorer(captioned), expected)
    if difference > MAX_SCORE_DIFFERENCE:
        raise ValueError(f"scores differ by {difference:g}; at most {MAX_SCORE_DIFFERENCE:g} is allowed")
    ours_s = median_seconds(lambda: scorer(captioned), repeats=repeats)
    case = f"{config.preset}, {num_images} images, {sum(len(image.masks) for image in shard.images)} masks"
    texts = [expression.text for image in captioned.images for expression in image.expressions]
    share = f"filter {100 * ours_s / caption_s:.1f} % of the captioner; {len(set(texts))} distinct captions"
    equal = f"scores of {len(texts)} candidates within {difference:.0e}"
    return [
        Row(f"captioner against filter, {case}", caption_s, ours_s, peak_rss_bytes(), share),
        Row(f"plain filter against ours, {case}", plain_s, ours_s, peak_rss_bytes(), equal),
    ]


def build_shard(num_images: int, max_masks: int) -> Shard:
    """Return scenes of the synthetic world as a shard, each with at most `max_masks` true masks."""
    scenes = [scene_image(make_scene(Split.DEMO, position)) for position in range(num_images)]
    shard = scene_shard(scenes, with_true_masks=True)
    return shard.with_images(tuple(replace(image, masks=image.masks[:max_masks]) for image in shard.images))


def largest_difference(shard: Shard, other: Shard) -> float:
    """Return by how much any two scores of the same candidate differ at most, relative where they exceed 1."""
    one, two = (_scores(image_of.images) for image_of in (shard, other))
    return float((np.abs(one - two) / np.maximum(np.abs(two), 1)).max(initial=0.0))


def _scores(images: Sequence[ShardImage]) -> np.ndarray:
    rows = [
        (e.uniqueness or 0.0, e.correctness or 0.0, e.distinctiveness or 0.0)
        for image in images
        for e in image.expressions
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


class PlainFilter:
    """A filter that shares nothing: scores every candidate of a shard, each of one target.

    Crops are cut one by one and embedded an image at a time, or, pairwise, again for each text, one crop and one text a
    call. Scores are those of `pseudoris.workers.filtering.scorer`.
    """

    def __init__(self, config: RunConfig) -> None:
        """Load CLIP on the CPU, in float32."""
        self._config = config.filtering
        self._model = load_clip(config.filtering.architecture, config.filtering.weights)
        self._format = crop_format(self._model, config.filtering.weights)
        self._tokenise = open_clip.SimpleTokenizer(context_length=int(self._model.context_length))
        self._find_nouns = noun_finder(config.filtering)
        self._prompt = partial(noun_prompt, nouns=config.filtering.nouns)

    @torch.inference_mode()
    def __call__(self, shard: Shard, *, is_pairwise: bool = False) -> Shard:
        """Return the shard with the three scores of every candidate."""
        cosines = self._pairwise if is_pairwise else self._batched
        return shard.with_images(tuple(self._scored(image, cosines) for image in shard.images))

    def _scored(self, image: ShardImage, cosines: Callable[[torch.Tensor, list[str]], torch.Tensor]) -> ShardImage:
        if not image.expressions:
            return image
        case = Case(
            decode_proven(image.data),
            [mask.rle_counts for mask in image.masks],
            [mask.box_xyxy_px for mask in image.masks],
        )
        scales = (self._config.context_scale, None)
        resize = partial(in_float32, has_antialiasing=self._config.has_antialiasing)
        crops = one_by_one(case, self._format, resize, scales=scales)
        captions = [expression.text for expression in image.expressions]
        prompts = [self._prompt(text, *self._find_nouns([text])) for text in captions]
        index_of = {mask.mask_id: index for index, mask in enumerate(image.masks)}
        scores = score_candidates(
            *(cosines(kind, texts) for kind, texts in zip(crops, (captions, prompts), strict=True)),
            targets=[index_of[expression.target_mask_ids[0]] for expression in image.expressions],
            min_cosine=self._config.min_cosine,
        )
        scored = [
            replace(
                expression,
                uniqueness=None if scores.uniqueness is None else float(scores.uniqueness[row]),
                correctness=float(scores.correctness[row]),
                distinctiveness=None if scores.distinctiveness is None else float(scores.distinctiveness[row]),
            )
            for row, expression in enumerate(image.expressions)
        ]
        return replace(image, expressions=tuple(scored))

    def _batched(self, crops: torch.Tensor, texts: list[str]) -> torch.Tensor:
        """Return the cosines (N, T) of crops (N, 3, S, S) and texts, each embedded once."""
        embedded: torch.Tensor = self._model.encode_image(crops, normalize=True)
        return embedded @ self._texts(texts).T

    def _pairwise(self, crops: torch.Tensor, texts: list[str]) -> torch.Tensor:
        """Return the same, a call a pair."""
        return torch.stack([torch.cat([self._batched(crop[None], [text])[0] for text in texts]) for crop in crops])

    def _texts(self, texts: list[str]) -> torch.Tensor:
        passes = torch.split(self._tokenise(texts), TEXTS_A_PASS)
        return torch.cat([self._model.encode_text(tokens, normalize=True) for tokens in passes])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, print the table, write the JSON."""
    given = options(__doc__, arguments)
    config = load_config(given.preset, assignments=["compute.device=cpu", *given.assignments])
    rows = measure(
        config,
        num_images=given.images,
        max_masks=given.masks,
        repeats=given.repeats,
        caption_repeats=given.caption_repeats,
    )
    report("filter: its share of the captioner's time, and against one that shares nothing", rows, given.json)


if __name__ == "__main__":
    main()
