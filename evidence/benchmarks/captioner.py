"""Compares the cached captioner with the authors' loop: the captions of one image by all decoding rules.

    python -m evidence.benchmarks.captioner [--preset tiny] [--masks 4 8] [--steps 12 24] [--timed-masks 8]
    [--repeats 5] [--set KEY=VALUE …] [--json FILE]

Without trained weights at hand `base` runs on random ones (`--set captions.weights.uri=random:0`). The authors' loop is
slow: it only samples, while ours is timed with its beams. It is timed once, and with `--timed-masks M` only up to M
masks; the rows beyond are counted in operations and say so.

Other benchmarks take AuthorsLoop, the baseline, and scenes_with from here. In float64 the loop must draw the engine's
captions, token for token: gpu_agreement refuses times otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from open_clip.coca_model import CoCa
from open_clip.tokenizer import SimpleTokenizer

from evidence.benchmarks.measurement import Row, median_seconds, options, peak_rss_bytes, report
from evidence.benchmarks.operation_counts import sampling_operations
from evidence.recipes.scene_shards import scene_image, scene_shard
from pseudoris.images.pixels import decode_proven
from pseudoris.primitives.counter_rng import draws
from pseudoris.primitives.uris import BUILTIN_PREFIX
from pseudoris.schemas.config import CaptionsConfig, RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.shard import Shard
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.captions import CocaCaptioner, distinctive
from pseudoris.workers.captions.captioner import coca_engine
from pseudoris.workers.captions.decoder_choice import chosen_decoder
from pseudoris.workers.captions.decoding_rules import ImageCrops
from pseudoris.workers.captions.vocabulary_logits import SpecialTokens, score_dtype
from pseudoris.workers.checkpoints.openclip import load_coca
from pseudoris.workers.device import prepare_device

# (prefix, crop) pairs a forward pass: the largest that the authors' memory allowed is not known. On a GPU enough to
# fill it: open_clip's decoder gives the logits of all positions, 2.4 MB a pair at 24 tokens in half precision.
PAIRS_A_PASS = {"cpu": 256, "cuda": 2048}


@dataclass(frozen=True, slots=True)
class _Rows:
    """Target (R,), k or 0 (R,), p (R,), uniform numbers (R, max_length) of the rows still alive."""

    target: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    uniform: torch.Tensor

    def at(self, index: torch.Tensor) -> _Rows:
        return _Rows(self.target[index], self.top_k[index], self.top_p[index], self.uniform[index])


class AuthorsLoop:
    """Distinctive sampling of one crop kind, ten decoders a mask, whole prefixes at every step."""

    def __init__(self, model: CoCa, special: SpecialTokens, config: CaptionsConfig, *, seed: int) -> None:
        self._model, self._special, self._config, self._seed = model, special, config, seed
        self._device = model.text_decoder.text_projection.device
        self._ends = [special.eos, *special.further_eos]

    @torch.inference_mode()
    def sample(self, image: ImageCrops, kind: int) -> list[tuple[int, ...]]:
        """Return the sampled tokens, without SOT and EOS, by mask, then rule, of one crop kind."""
        encoded = self._model(image.pixels[kind])
        features = encoded["image_features"]
        embeddings = torch.nn.functional.normalize(features.to(score_dtype(features.dtype)), dim=-1)
        others = distinctive.choose_others(embeddings @ embeddings.t(), self._config.sampling)
        rows = self._rows(image, image.kinds[kind])
        alive = torch.arange(len(rows.target), device=self._device)
        prefixes = torch.full((len(alive), 1), self._special.sot, device=self._device)
        captions: list[tuple[int, ...]] = [()] * len(alive)
        for length in range(1, self._config.max_length - 1):
            live = rows.at(alive)
            own, mean = self._logits(encoded["image_embs"], prefixes, live, others)
            tokens = self._draw(own, mean, live, length)
            prefixes = torch.cat([prefixes, tokens[:, None]], dim=1)
            goes_on = ~torch.isin(tokens, torch.tensor(self._ends, device=self._device))
            for row, prefix in zip(alive[~goes_on].tolist(), prefixes[~goes_on].tolist(), strict=True):
                captions[row] = tuple(prefix[1:-1])
            alive, prefixes = alive[goes_on], prefixes[goes_on]
            if not len(alive):
                break
        for row, prefix in zip(alive.tolist(), prefixes.tolist(), strict=True):
            captions[row] = tuple(prefix[1:])
        return captions

    def _rows(self, image: ImageCrops, kind: str) -> _Rows:
        rules = [rule for rule in self._config.decoding_rules() if rule.name != "beam"]
        pairs = [(mask, rule) for mask in range(len(image.mask_indices)) for rule in rules]
        keys = [(self._seed, image.image_id, image.mask_indices[p], kind, d.label) for p, d in pairs]
        return _Rows(
            target=torch.tensor([mask for mask, _ in pairs], device=self._device),
            top_k=torch.tensor([rule.top_k or 0 for _, rule in pairs], device=self._device),
            top_p=torch.tensor([rule.top_p or 1.0 for _, rule in pairs], dtype=torch.float64).to(self._device),
            uniform=torch.from_numpy(draws(keys, self._config.max_length)).to(self._device),
        )

    def _logits(
        self, image_tokens: torch.Tensor, prefixes: torch.Tensor, live: _Rows, others: distinctive.Others
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return z_i and the weighted mean of the z_j, both (R, V), of the last position."""
        num_crops = len(image_tokens)
        _, text = self._model._encode_text(prefixes)
        own, mean = [], []
        weights = others.weights.new_zeros(len(others.indices), num_crops).scatter(1, others.indices, others.weights)
        rows = torch.arange(len(prefixes), device=self._device)
        for index in torch.split(rows, max(1, PAIRS_A_PASS[self._device.type] // num_crops)):
            pairs = text[index].repeat_interleave(num_crops, dim=0)
            crops = image_tokens.repeat(len(index), 1, 1)
            logits = self._model.text_decoder(crops, pairs)[:, -1].view(len(index), num_crops, -1)
            logits = logits.to(score_dtype(logits.dtype))
            target = live.target[index]
            own.append(logits[torch.arange(len(index), device=self._device), target])
            mean.append((weights[target][:, :, None] * logits).sum(1))
        return torch.cat(own), torch.cat(mean)

    def _draw(self, own: torch.Tensor, mean: torch.Tensor, live: _Rows, length: int) -> torch.Tensor:
        if length < self._config.min_length:
            own[:, self._ends] = -torch.inf
        is_kept = torch.zeros_like(own, dtype=torch.bool)
        has_k = live.top_k > 0
        is_kept[has_k] = _top_k_sets(own[has_k], live.top_k[has_k])
        is_kept[~has_k] = _top_p_sets(own[~has_k], live.top_p[~has_k])
        is_eos = torch.zeros_like(is_kept)
        is_eos[:, self._ends] = True
        weights = distinctive.distinctive_weights(
            own, mean, is_kept=is_kept, is_eos=is_eos, temperature=self._config.sampling.temperature
        )
        return distinctive.draw(weights, live.uniform[:, length])


def _top_k_sets(own: torch.Tensor, top_k: torch.Tensor) -> torch.Tensor:
    """Return (R, V) bool, the tokens at or above the k-th logit of each row."""
    if not len(own):
        return torch.zeros_like(own, dtype=torch.bool)
    highest = own.topk(int(top_k.max()), dim=1).values
    return (own >= highest.gather(1, (top_k - 1)[:, None])) & (own > -torch.inf)


def _top_p_sets(own: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Return (R, V) bool, the smallest sets that reach p."""
    ordered, ids = own.sort(dim=1, descending=True, stable=True)
    num_kept = distinctive.count_top_p(ordered, own.logsumexp(1), top_p)
    is_first = torch.arange(own.shape[1], device=own.device) < num_kept[:, None]
    return torch.zeros_like(is_first).scatter_(1, ids, is_first)


# More masks than any of these scenes has objects are noise.
SCENES_LOOKED_AT = 200


@dataclass(frozen=True, slots=True)
class Timed:
    """What a timed run of the authors' loop says of one that is only counted."""

    seconds: float
    operations: float

    def scaled(self, operations: float) -> float:
        """Return the seconds that so many operations take at the same speed."""
        return self.seconds * operations / self.operations


def measure(
    config: RunConfig, *, masks: Sequence[int], steps: Sequence[int], timed_masks: int, repeats: int
) -> list[Row]:
    """Return a row for each number of masks and of steps: one crop kind of one image, the same crops on both sides."""
    prepare_device(config.compute)
    model = load_coca(config.captions.architecture, config.captions.weights).requires_grad_(False)
    rows, timed = [], None
    for num_steps in steps:
        for num_masks in masks:
            captions = one_crop_kind(config.captions, num_steps=num_steps)
            row, last = _measure(
                model,
                config.model_copy(update={"captions": captions}),
                num_masks,
                timed=timed if num_masks > timed_masks else None,
                repeats=repeats,
            )
            rows.append(row)
            timed = last or timed
    return rows


def _measure(
    model: CoCa, config: RunConfig, num_masks: int, *, timed: Timed | None, repeats: int
) -> tuple[Row, Timed | None]:
    captions, special = config.captions, special_tokens(model)
    image = crops_for(config, num_masks, model.visual.image_size[0])
    is_static = chosen_decoder(captions, config.compute)[0] == "static"
    engine = coca_engine(model, special, captions, seed=config.compute.seed, is_static=is_static)
    ours = [caption.tokens for caption in engine.generate(image) if caption.sample.decoder != "beam"]
    share = engine.towers.num_pairs / engine.towers.num_asked
    ours_s = median_seconds(lambda: engine.generate(image), repeats=repeats, warm_ups=0)
    operations = sampling_operations(model, [len(tokens) for tokens in ours], captions, num_masks=num_masks)
    note = f"{11 * num_masks / ours_s:.1f} captions/s, beams too; the tree leaves {share:.0%} of the pairs"
    if timed is None:
        authors = AuthorsLoop(model, special, captions, seed=config.compute.seed)
        theirs, seconds = _once(lambda: authors.sample(image, 0))
        num_equal = sum(one == other for one, other in zip(theirs, ours, strict=True))
        note += f"; {num_equal} of {len(ours)} captions equal token for token"
        last = Timed(seconds, operations)
    else:
        seconds, last = timed.scaled(operations), None
        note += "; baseline COUNTED in operations, not timed"
    case = f"captioner, {config.preset}, {num_masks} masks, 1 crop kind, {captions.max_length - 2} steps"
    return Row(case, seconds, ours_s, peak_rss_bytes(), note), last


def _once(work: Callable[[], list[tuple[int, ...]]]) -> tuple[list[tuple[int, ...]], float]:
    found: list[list[tuple[int, ...]]] = []
    seconds = median_seconds(lambda: found.append(work()), repeats=1, warm_ups=0)
    return found[0], seconds


def one_crop_kind(captions: CaptionsConfig, *, num_steps: int | None = None) -> CaptionsConfig:
    """Return the configuration with the 1.0 context crop alone: the ratio does not depend on how many there are.

    `num_steps` are sampled tokens: SOT stands before them, and a last EOS costs nothing.
    """
    changes: dict[str, object] = {"has_masked_crop": False, "context_scales": (1.0,)}
    if num_steps is not None:
        changes |= {"max_length": num_steps + 2, "min_length": min(captions.min_length, num_steps)}
    return captions.model_copy(update=changes)


def special_tokens(model: CoCa) -> SpecialTokens:
    """Return the start, end and padding tokens of open_clip's tokenizer for `model`."""
    tokenizer = SimpleTokenizer()
    return SpecialTokens(tokenizer.sot_token_id, tokenizer.eot_token_id, int(model.text.pad_id))


def crops_for(config: RunConfig, num_masks: int, size: int) -> ImageCrops:
    """Return the 1.0 context crops of one image: of a scene under trained tiny weights, else of smooth noise.

    Under random weights the content does not matter to either side's cost; under trained ones captions, and with them
    the prefixes that coincide, come from it.
    """
    if not config.captions.weights.uri.startswith(BUILTIN_PREFIX):
        return noise_crops(num_masks, size)
    scenes = (make_scene(Split.DEMO, position) for position in range(SCENES_LOOKED_AT))
    scene = next((scene for scene in scenes if len(scene.objects) >= num_masks), None)
    if scene is None:
        return noise_crops(num_masks, size)
    shard = scene_shard([scene_image(scene)], with_true_masks=True)
    image = replace(shard.images[0], masks=shard.images[0].masks[:num_masks])
    captioner = CocaCaptioner(one_crop_kind(config.captions), config.compute)
    return captioner.image_crops(image, decode_proven(image.data))


def noise_crops(num_masks: int, size: int, *, seed: int = 0) -> ImageCrops:
    """Return smooth noise as the crops of one image."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(num_masks, 3, 8, 8, generator=generator)
    pixels = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return ImageCrops("0" * 16, ("context_1.0",), tuple(range(num_masks)), pixels[None])


def mixed_counts(num_images: int) -> list[int]:
    """Return numbers of masks as photographs have them: of a lognormal with the median 10, from 1 to 80."""
    drawn = np.exp(np.random.default_rng(1).normal(math.log(10), 0.7, size=num_images))
    return [int(count) for count in drawn.round().clip(1, 80)]


def scenes_with(num_masks: int | Sequence[int], num_images: int) -> Shard:
    """Return scenes as a shard, their first true masks repeated up to `num_masks` where they have fewer objects.

    `num_masks` is of all images, or of each.
    """
    positions = range(max(SCENES_LOOKED_AT, num_images))
    counts = [num_masks] * num_images if isinstance(num_masks, int) else num_masks
    richest = sorted(positions, key=lambda at: -len(make_scene(Split.DEMO, at).objects))[:num_images]
    shard = scene_shard([scene_image(make_scene(Split.DEMO, at)) for at in richest], with_true_masks=True)
    images = []
    for image, count in zip(shard.images, counts, strict=True):
        repeats = -(-count // len(image.masks))
        masks = [
            replace(mask, index=number, mask_id=f"{mask.mask_id[:-2]}{number:02d}")
            for number, mask in enumerate((image.masks * repeats)[:count])
        ]
        images.append(replace(image, masks=tuple(masks)))
    return shard.with_images(tuple(images))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, print the table, write the JSON."""
    given = options(__doc__, arguments)
    config = load_config(given.preset, assignments=["compute.device=cpu", *given.assignments])
    rows = measure(config, masks=given.masks, steps=given.steps, timed_masks=given.timed_masks, repeats=given.repeats)
    report("captioner: the authors' loop against the cached prefix tree", rows, given.json)


if __name__ == "__main__":
    main()
