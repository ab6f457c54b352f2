"""Compares the tree of prefixes over a vision-language model with a plain loop, and with transformers' own `generate`.

    python -m evidence.benchmarks.vlm_captioner [--model FOLDER] [--masks 4 8] [--repeats 3] [--json FILE]

The model is a folder, by default the tiny LLaVA of evidence/recipes/. Both sides get the same crops of one drawn scene,
ten draws a mask. The plain loop runs whole sequences at every step, batched, and drops what is finished. `generate` has
caches but no contrast: it is one batch of all crops for each rule, and ours then draws from each mask's own
distribution. Plain loop and tree get the same draws: the note tells how many captions are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from evidence.benchmarks.captioner import PAIRS_A_PASS, SCENES_LOOKED_AT, AuthorsLoop
from evidence.benchmarks.measurement import Row, median_seconds, options, peak_rss_bytes, report
from evidence.recipes.llava_recipe import FOLDER
from evidence.recipes.scene_shards import scene_image, scene_shard
from pseudoris.images.pixels import decode_proven
from pseudoris.schemas.config import CaptionsConfig, RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.captions.captioner import TreeCaptioner
from pseudoris.workers.captions.decoding_rules import ImageCrops
from pseudoris.workers.captions.distinctive import Others
from pseudoris.workers.captions.engine import CachedEngine
from pseudoris.workers.captions.vlm_captioner import Vlm, VlmCaptioner, load_vlm, vlm_engine, vlm_options
from pseudoris.workers.captions.vocabulary_logits import SpecialTokens, score_dtype
from pseudoris.workers.device import prepare_device


class PlainLoop(AuthorsLoop):
    """Distinctive sampling of one crop kind with s_ij = 1: whole sequences at every step, the needed crops alone."""

    def __init__(self, vlm: Vlm, special: SpecialTokens, config: CaptionsConfig, *, seed: int) -> None:
        self._vlm, self._special, self._config, self._seed = vlm, special, config, seed
        self._device, self._ends = vlm.model.device, [special.eos, *special.further_eos]

    def _model(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        self._batch = prompts(self._vlm, pixels)
        dtype = score_dtype(self._vlm.model.dtype)
        alike = torch.ones(len(pixels), 1, dtype=dtype, device=self._device)
        return {"image_features": alike, "image_embs": torch.arange(len(pixels), device=self._device)}

    def _logits(
        self, image_tokens: torch.Tensor, prefixes: torch.Tensor, live: Any, others: Others
    ) -> tuple[torch.Tensor, torch.Tensor]:
        crops = torch.cat((live.target[:, None], others.indices[live.target]), dim=1)
        parts = []
        for some, words in zip(
            torch.split(crops.reshape(-1), PAIRS_A_PASS[self._device.type]),
            torch.split(prefixes[:, 1:].repeat_interleave(crops.shape[1], 0), PAIRS_A_PASS[self._device.type]),
            strict=True,
        ):
            whole = {name: part[some] for name, part in self._batch.items()}
            whole["input_ids"] = torch.cat((whole["input_ids"], words), dim=1)
            whole["attention_mask"] = F.pad(whole["attention_mask"], (0, words.shape[1]), value=1)
            parts.append(self._vlm.model(**whole, use_cache=False, logits_to_keep=1).logits[:, -1])
        logits = torch.cat(parts).view(*crops.shape, -1)
        logits = logits.to(score_dtype(logits.dtype))
        own, mean = logits[:, 0], (others.weights[live.target][:, :, None] * logits[:, 1:]).sum(1)
        own[:, list(self._special.forbidden)] = -torch.inf
        return own, mean


def prompts(vlm: Vlm, crops: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the prompts about crops (N, 3, S, S) of one size in [0, 1], as one batch on the model's device."""
    parts = [vlm.inputs((crop * 255).round().to(torch.uint8)) for crop in crops]
    batch = {name: torch.cat([part[name] for part in parts]).to(vlm.model.device) for name in parts[0]}
    return {name: part.to(vlm.model.dtype) if part.is_floating_point() else part for name, part in batch.items()}


@torch.inference_mode()
def generated(vlm: Vlm, crops: torch.Tensor, config: CaptionsConfig) -> list[Any]:
    """Return the tokens that `generate` draws without contrast, (N, L) for each rule."""
    batch = prompts(vlm, crops)
    found = []
    for rule in config.decoding_rules():
        # The prompt's last token counts as SOT, and the last token is EOS.
        lengths = {"max_new_tokens": config.max_length - 2, "min_new_tokens": config.min_length - 1}
        drawn = {"top_k": rule.top_k or 0, "top_p": rule.top_p or 1.0, "do_sample": True}
        found.append(vlm.model.generate(**batch, **lengths, **drawn))
    return found


def config_of(folder: str) -> RunConfig:
    """Return the settings of a run with the model: one crop kind, ten rules, contrast with the nearest six."""
    return load_config(
        "tiny",
        assignments=[
            *("captions.engine=vlm", "captions.architecture=null", f"captions.weights.uri={folder}"),
            *("captions.options={crop_size: 48, similarity: one}", "captions.beam.num_beams=0"),
            *("captions.context_scales=[1.2]", "captions.has_masked_crop=false", "captions.max_length=14"),
            "captions.sampling={top_k: [5, 7, 9, 11, 13], top_p: [0.4, 0.5, 0.6, 0.7, 0.8], max_others: 6}",
        ],
    )


def measure(config: RunConfig, *, masks: Sequence[int], repeats: int) -> list[Row]:
    """Return the rows of one image for each number of masks."""
    device = prepare_device(config.compute)
    captions = config.captions
    vlm = load_vlm(captions.weights, vlm_options(captions.options), device, torch.float32)
    own_sampling = captions.sampling.model_copy(update={"is_distinctive": False})
    own_captions = captions.model_copy(update={"sampling": own_sampling})
    captioner, rows = VlmCaptioner(captions, config.compute), []
    for num_masks in masks:
        image = crops_of(captioner, num_masks)
        ours, own = (vlm_engine(vlm, each, seed=0) for each in (captions, own_captions))
        plain = PlainLoop(vlm, ours.special, captions, seed=0)
        theirs, drawn = plain.sample(image, 0), [each.tokens for each in ours.generate(image)]
        own_s, generate_s, ours_s, plain_s = _medians(
            [
                partial(own.generate, image),
                partial(generated, vlm, image.pixels[0], captions),
                partial(ours.generate, image),
                partial(plain.sample, image, 0),
            ],
            repeats,
        )
        num_equal = sum(one == other for one, other in zip(theirs, drawn, strict=True))
        words = sum(map(len, drawn)) / len(drawn)
        rows += [
            Row(
                f"plain loop, {num_masks} masks, contrast with {min(num_masks - 1, 6)}",
                plain_s,
                ours_s,
                peak_rss_bytes(),
                f"{num_equal} of {len(drawn)} captions equal token for token, {words:.1f} tokens each; "
                f"{_share(ours):.0%} of the pairs are computed",
            ),
            Row(
                f"generate, {num_masks} masks, no contrast",
                generate_s,
                own_s,
                peak_rss_bytes(),
                f"contrast costs {ours_s / own_s:.2f} times this",
            ),
        ]
    return rows


def _share(engine: CachedEngine) -> float:
    return engine.towers.num_pairs / engine.towers.num_asked


def _medians(sides: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Return the median seconds of each side, timed in turns, so that a busy minute meets all of them."""
    times = [[median_seconds(side, repeats=1, warm_ups=0) for side in sides] for _ in range(repeats)]
    return [float(torch.tensor(each, dtype=torch.float64).median()) for each in zip(*times, strict=True)]


def crops_of(captioner: TreeCaptioner, num_masks: int) -> ImageCrops:
    """Return the crops of the first masks of a drawn scene that has as many objects."""
    scenes = (make_scene(Split.DEMO, position) for position in range(SCENES_LOOKED_AT))
    scene = next(scene for scene in scenes if len(scene.objects) >= num_masks)
    (image,) = scene_shard([scene_image(scene)], with_true_masks=True).images
    return captioner.image_crops(replace(image, masks=image.masks[:num_masks]), decode_proven(image.data))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, print the table, write the JSON."""
    given = options(__doc__, arguments)
    rows = measure(config_of(str(given.model or FOLDER)), masks=given.masks, repeats=given.repeats)
    report(
        "captions by a vision-language model: the tree of prefixes against the plain loop and generate",
        rows,
        given.json,
    )


if __name__ == "__main__":
    main()
