"""What half precision costs: masks, captions and kept expressions in bfloat16 and float16 against float32, on a CPU.

    python -m evidence.experiments.precision_costs [--preset tiny|base] [--images 12] [--masks 4] [--set KEY=VALUE …]
    [--json FILE]

Each stage gets the same input in each precision: scenes of so many images; `--masks` true masks an image; and the
captions of float32. `kept` says of how many of these the filter decides alike. `chain` says how many of the expressions
that float32 keeps are kept, word for word, where captions are of the precision too. `iou` is the mean, over the masks
of float32, of the best IoU with one of the precision; `least` the lowest. Weights of `base` are random, with masks made
smooth and captions sure (`benchmarks.mask_sides`, `benchmarks.gpu_agreement`).

Products of float16 are summed in float32 and rounded, as a GPU does; the CPU's own take minutes for a convolution. On a
CPU masks are upscaled in float32. SAM's norms over channels take squares in float32, as torch's casts have it on a
GPU; on a CPU they would overflow in float16, and masks be wrong without a value that is not finite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from unittest import mock

import numpy as np
import torch
from segment_anything.modeling.common import LayerNorm2d
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from evidence.benchmarks.captioner import scenes_with
from evidence.benchmarks.gpu_agreement import sure_captioner
from evidence.benchmarks.mask_sides import Side, Sides, best_ious, scene_pixels
from evidence.benchmarks.measurement import options, print_table, random_weights, write_json
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.shard import Shard
from pseudoris.workers.filtering import ClipScorer

PRECISIONS: Final = ("bfloat16", "float16")
_STAGES: Final = ("masks", "captions", "filtering")
_PRODUCTS: Final = frozenset(
    {"linear", "matmul", "__matmul__", "mm", "addmm", "bmm", "baddbmm", "baddbmm_", "einsum", "conv2d"}
    | {"scaled_dot_product_attention", "_native_multi_head_attention"}
)
_SIDES: Final[tuple[Side, Side]] = ("ours", "ours, coarse")


class SummedInFloat32(TorchFunctionMode):
    """Computes products of float16, also under autocast, in float32, and rounds what they give."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run it."""
        given, name = (args, dict(kwargs or {})), getattr(function, "__name__", "")
        is_cast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.float16
        if name not in _PRODUCTS or not (is_cast or any(map(_is_half, tree_leaves(given)))):
            return function(*given[0], **given[1])
        wide, named = tree_map(lambda each: each.half().float() if _is_floating(each) else each, given)
        with torch.autocast("cpu", enabled=False):
            found = function(*wide, **named)
        if name.endswith("bmm_"):
            return args[0].copy_(found)
        return tree_map(lambda each: each.half() if _is_floating(each) else each, found)


def _is_floating(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _is_half(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.float16


def in_precision(config: RunConfig, precision: str) -> RunConfig:
    """Return the config with another precision."""
    return config.model_copy(update={"compute": config.compute.model_copy(update={"precision": precision})})


def masks_of(config: RunConfig, num_images: int) -> dict[str, float]:
    """Return how far the masks of the config's precision agree with those of float32."""
    sides = Sides(config, num_images=num_images, kept_share=0.4, is_remembering=False)
    norm = LayerNorm2d.forward
    with mock.patch.object(LayerNorm2d, "forward", lambda layer, values: norm(layer, values.float())):
        full, half = ([sides.generator(side)(image) for image in scene_pixels(num_images)] for side in _SIDES)
    best = np.concatenate([best_ious(b.counts, a.counts, a.size) for a, b in zip(full, half, strict=True)])
    equal = sum(len(set(a.counts) & set(b.counts)) for a, b in zip(full, half, strict=True))
    return {"masks": len(best), "equal masks": equal, "iou": float(best.mean()), "least": float(best.min())}


def said_in(shard: Shard) -> dict[tuple[object, ...], str]:
    """Return the text of each caption, by mask, crop kind and rule."""
    return {
        (each.target_mask_ids, sample.crop, sample.decoder, sample.top_k, sample.top_p): each.text
        for image in shard.images
        for each in image.expressions
        for sample in each.samples
    }


def kept_in(shard: Shard) -> dict[tuple[object, ...], bool]:
    """Return whether each expression is kept, by mask and text."""
    return {(each.target_mask_ids, each.text): each.kept for image in shard.images for each in image.expressions}


def measure(config: RunConfig, *, num_images: int, num_masks: int) -> list[dict[str, Any]]:
    """Return the row of each precision."""
    full, shard, rows = in_precision(config, "float32"), scenes_with(num_masks, num_images), []
    captioned = sure_captioner(full)(shard)
    said, kept = said_in(captioned), kept_in(ClipScorer(full.filtering, full.compute)(captioned))
    for precision in PRECISIONS:
        half = in_precision(config, precision)
        mine = sure_captioner(half)(shard)
        score = ClipScorer(half.filtering, half.compute)
        same_input, chain, said_half = kept_in(score(captioned)), kept_in(score(mine)), said_in(mine)
        of_full = [key for key, is_kept in kept.items() if is_kept]
        row = {
            "precision": precision,
            **masks_of(half, num_images),
            "captions": len(said),
            "equal captions": sum(text == said_half.get(key) for key, text in said.items()),
            "expressions": len(kept),
            "decided alike": sum(is_kept == same_input[key] for key, is_kept in kept.items()),
            "kept": len(of_full),
            "kept in chain": sum(chain.get(key, False) for key in of_full),
        }
        rows.append(row)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, print the table, write the JSON."""
    given = options(__doc__, arguments)
    on_cpu = ["compute.device=cpu", "placement.fused.num_gpus=0", *random_weights(given.preset, _STAGES)]
    config = load_config(given.preset, assignments=[*on_cpu, *given.assignments])
    with SummedInFloat32():
        rows = measure(config, num_images=given.images, num_masks=given.masks)
    write_json({given.preset: rows}, given.json)
    cells = [
        {name: f"{value:.4f}" if isinstance(value, float) else str(value) for name, value in row.items()}
        for row in rows
    ]
    print_table(f"{given.preset}, against float32, on a CPU", cells, width=200)


if __name__ == "__main__":
    main()
