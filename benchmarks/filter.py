"""Measures the filter against the captioner, and against a filter that shares no work.

    python -m benchmarks.filter [--preset tiny] [--images 16] [--masks 8] [--repeats 5] [--caption-repeats 5]
    [--captions-of PRESET] [--agreement N] [--set KEY=VALUE …] [--json FILE]

Three rows. The first puts the captioner on the left: its ratio is how many times longer captioning takes than filtering
the same shard, and the note gives the share. The second is a filter that cuts each crop alone and embeds every
candidate's texts over the whole context, equal strings again and again, timed once; both must give the same scores. The
third is what head nouns, prompts and tokens cost a GPU's thread: as 0.5.0 made them, and now.

Without trained weights at hand `base` runs on random ones: `--set captions.weights.uri=random:0 --set
filtering.weights.uri=random:0`. Its random captions are of random words, nearly all distinct and of full length, and
share few prefixes. With `--captions-of tiny` the captioner takes the path of that preset, whose weights are trained,
draw by draw and beam by beam (`benchmarks.forced_captions`).

`--agreement` times nothing: of so many scenes it counts the candidates that the two filters do not both keep.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray

from benchmarks.crops import Case, in_float32, one_by_one
from benchmarks.forced_captions import draw, forced
from benchmarks.measurement import Row, median_seconds, options, peak_rss_bytes, report, write_json
from pseudoris.images.pixels import decode_proven
from pseudoris.primitives.clip_tokenizer import ClipTokenizer
from pseudoris.primitives.head_nouns import head_noun, noun_prompt
from pseudoris.schemas.config import FilterConfig, RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.keep_rule import KeepRule, keeps
from pseudoris.schemas.shard import Shard, ShardImage
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.checkpoints.openclip import load_clip
from pseudoris.workers.filtering.caption_texts import TextMaker
from pseudoris.workers.filtering.clip_embedder import crop_format
from pseudoris.workers.filtering.scorer import score_candidates
from pseudoris.workers.filtering.spacy_nouns import first_child_head, noun_finder
from pseudoris.workers.stages import STAGES
from recipes.scene_shards import scene_image, scene_shard

SCENES_A_SHARD = 16
# Strings a forward pass: bounds memory.
TEXTS_A_PASS = 256
MAX_SCORE_DIFFERENCE = 1e-3


def measure(
    config: RunConfig,
    *,
    num_images: int,
    max_masks: int,
    repeats: int,
    caption_repeats: int,
    captions_of: RunConfig | None = None,
) -> list[Row]:
    """Return the two rows for a shard of scenes with their true masks; ValueError where scores differ.

    Args:
        config: Of both sides.
        num_images: Of the shard.
        max_masks: Of an image.
        repeats: Of filtering.
        caption_repeats: Of captioning.
        captions_of: Whose captions are drawn; None for those of `config` itself.
    """
    scorer = STAGES[2].engine(config)(config.filtering, config.compute)
    plain = PlainFilter(config)
    shard = build_shard(num_images, max_masks)
    caption: Callable[[Shard], Shard]
    if captions_of is None:
        caption = STAGES[1].engine(config)(config.captions, config.compute)
    else:
        caption = forced(config, captions_of.captions, draw(captions_of, shard))
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
    if captions_of is not None:
        case += f", captions of {captions_of.preset}"
    texts = [expression.text for image in captioned.images for expression in image.expressions]
    share = f"filter {100 * ours_s / caption_s:.1f} % of the captioner; {len(set(texts))} distinct captions"
    equal = f"scores of {len(texts)} candidates within {difference:.0e}"
    return [
        Row(f"captioner against filter, {case}", caption_s, ours_s, peak_rss_bytes(), share),
        Row(f"plain filter against ours, {case}", plain_s, ours_s, peak_rss_bytes(), equal),
        text_row(config.filtering, [[each.text for each in image.expressions] for image in captioned.images]),
    ]


def text_row(config: FilterConfig, images: Sequence[Sequence[str]]) -> Row:
    """Return the thread's seconds for the captions of images: as 0.5.0 read them, and with processes beside it."""
    tokenise, find = ClipTokenizer(77), head_noun
    if config.nouns == "spacy_first_child":
        parse = import_module("spacy").load(config.spacy_model)
        find = lambda text: first_child_head(parse(text))  # noqa: E731 -- by all of the pipeline, one caption a call

    def read(captions: list[str]) -> object:
        prompts = {text: noun_prompt(text, find(text), nouns=config.nouns) for text in captions}
        return tokenise(list(dict.fromkeys(text for both in prompts.items() for text in both)))

    make = TextMaker(config, ClipTokenizer(77), is_ahead=True)
    make(["a dog"])
    seconds: dict[Callable[[list[str]], object], float] = {read: 0.0, make: 0.0}
    for captions in images:
        for work in seconds:
            started = time.thread_time()
            work(list(dict.fromkeys(captions)))
            seconds[work] += time.thread_time() - started
    case = f"texts, 0.5.0 against ours, nouns by {config.nouns}"
    return Row(case, seconds[read], seconds[make], peak_rss_bytes(), f"thread's seconds; {len(images)} images")


def compare_kept(config: RunConfig, *, num_images: int, max_masks: int) -> Iterator[dict[str, Any]]:
    """Yield after each shard how the filter agrees with one that shares no work, over all scenes so far."""
    caption = STAGES[1].engine(config)(config.captions, config.compute)
    score, plain = STAGES[2].engine(config)(config.filtering, config.compute), PlainFilter(config)
    rule = KeepRule(config.filtering.tau, config.filtering.keep, lone_masks=config.filtering.lone_masks)
    kept = kept_in_one = num_candidates = 0
    difference = 0.0
    for first in range(0, num_images, SCENES_A_SHARD):
        captioned = caption(build_shard(min(SCENES_A_SHARD, num_images - first), max_masks, first=first))
        ours, theirs = score(captioned), plain(captioned)
        difference = max(difference, largest_difference(ours, theirs))
        for one, other in zip(ours.images, theirs.images, strict=True):
            is_kept = np.array([expression.kept for expression in one.expressions], dtype=bool)
            num_candidates, kept = num_candidates + len(is_kept), kept + int(is_kept.sum())
            kept_in_one += int((is_kept != _kept_by(rule, other)).sum())
        yield {
            "preset": config.preset,
            "scenes": first + len(captioned.images),
            "candidates": num_candidates,
            "kept": kept,
            "kept_in_one_alone": kept_in_one,
            "largest_difference_relative_above_1": difference,
        }


def _kept_by(rule: KeepRule, image: ShardImage) -> NDArray[np.bool_]:
    names = ("uniqueness", "correctness", "distinctiveness")
    columns = {name: np.array([getattr(e, name) for e in image.expressions], dtype=np.float64) for name in names}
    columns["count"] = np.array([len(e.samples) for e in image.expressions], dtype=np.float64)
    return keeps(rule, columns, [e.target_mask_ids[0] for e in image.expressions])


def build_shard(num_images: int, max_masks: int, *, first: int = 0) -> Shard:
    """Return scenes of the synthetic world, from `first` on, as a shard, each with at most `max_masks` true masks."""
    scenes = [scene_image(make_scene(Split.DEMO, first + position)) for position in range(num_images)]
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
    if given.agreement:
        for found in compare_kept(config, num_images=given.agreement, max_masks=given.masks):
            print(", ".join(f"{name} {value}" for name, value in found.items()), flush=True)
            write_json([found], given.json)
        return
    captions_of = (
        None if given.captions_of is None else load_config(given.captions_of, assignments=["compute.device=cpu"])
    )
    rows = measure(
        config,
        num_images=given.images,
        max_masks=given.masks,
        repeats=given.repeats,
        caption_repeats=given.caption_repeats,
        captions_of=captions_of,
    )
    report("filter: its share of the captioner's time, and against one that shares nothing", rows, given.json)


if __name__ == "__main__":
    main()
