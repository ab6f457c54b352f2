"""Prints what captioning an image by a vision-language model costs on paper; nothing is run.

    python -m benchmarks.paper_cost [--json FILE] [--config FILE]

Tokens, GPU seconds and memory, by arithmetic from the models' published shapes. docs/records/scale.md has the
assumptions, and what is left out. `--config` takes the captions of a settings file of `pseudoris annotate` with the
engine `vlm`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from benchmarks.measurement import options, print_table, write_json
from pseudoris.schemas.config import CaptionsConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.workers.captions.vlm_loading import VlmOptions

# Bytes of a weight, and of a key's or value's number, in bfloat16.
_BYTES: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class VlmShape:
    """A vision-language model of the form of Qwen3-VL: counts, as its `config.json` gives them.

    Attributes:
        name: Of the model on the hub.
        hidden: Width of the decoder.
        layers: Of the decoder.
        heads: Query heads of a layer, each of `head_size`; so are the fewer `kv_heads` of keys and values.
        inner: Width of a layer's MLP, which has three matrices.
        is_tied: Whether the embedding of tokens is the output matrix.
        vision_hidden: Width of the vision tower.
        vision_layers: Of the vision tower.
        vision_inner: Width of its MLP, which has two matrices.
        num_mergers: Projections of merged patches into the decoder: one, and one for each layer of DeepStack.
        patch_px: Side of a patch.
        merge: Patches a side that become one token of the decoder.
    """

    name: str
    hidden: int
    layers: int
    heads: int
    inner: int
    is_tied: bool
    vision_hidden: int
    vision_layers: int
    vision_inner: int
    kv_heads: int = 8
    head_size: int = 128
    vocabulary: int = 151_936
    num_mergers: int = 4
    patch_px: int = 16
    merge: int = 2

    @property
    def layer_weights(self) -> int:
        """Entries of the matrices of all decoder layers, which every token is multiplied with."""
        attention = self.hidden * self.head_size * 2 * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.inner)

    @property
    def merger_weights(self) -> int:
        """Entries of all mergers, which every image token is multiplied with."""
        width = self.vision_hidden * self.merge**2
        return self.num_mergers * width * (width + self.hidden)

    @property
    def vision_weights(self) -> int:
        """Entries of the vision tower's matrices, which every patch is multiplied with; a patch is two frames."""
        layer = 4 * self.vision_hidden**2 + 2 * self.vision_hidden * self.vision_inner
        return self.vision_layers * layer + 2 * 3 * self.patch_px**2 * self.vision_hidden

    @property
    def weight_bytes(self) -> int:
        """Bytes of all matrices in bfloat16."""
        tables = self.vocabulary * self.hidden * (1 if self.is_tied else 2)
        return _BYTES * (self.layer_weights + self.merger_weights + self.vision_weights + tables)

    @property
    def cache_bytes_a_token(self) -> int:
        """Bytes of the keys and values of one token in all layers, in bfloat16."""
        return _BYTES * 2 * self.layers * self.kv_heads * self.head_size


# Source: the `config.json` of each model on the hub, as recalled; their numbers of parameters are the published ones.
PUBLISHED: Final = (
    VlmShape(
        name="Qwen3-VL-2B-Instruct",
        hidden=2048,
        layers=28,
        heads=16,
        inner=6144,
        is_tied=True,
        vision_hidden=1024,
        vision_layers=24,
        vision_inner=4096,
    ),
    VlmShape(
        name="Qwen3-VL-8B-Instruct",
        hidden=4096,
        layers=36,
        heads=32,
        inner=12_288,
        is_tied=False,
        vision_hidden=1152,
        vision_layers=27,
        vision_inner=4304,
    ),
)
# As the captioner `vlm` has it.
CROP_PX: Final = 448
# Masks of an image: few, and the paper's limit.
NUM_MASKS: Final = (8, 30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is asked of a model for one image, and what the arithmetic assumes.

    Attributes:
        num_masks: N.
        num_kinds: Crop kinds; each mask has a crop of each.
        num_draws: Captions that are drawn for a crop.
        num_others: Other masks that a draw is contrasted with; 0 without contrast.
        crop_px: Side of a crop as the vision tower gets it. Raised, prompts grow with its square.
        prompt_tokens: Tokens of the prompt beside the crop's.
        caption_tokens: Tokens of a caption, with its end.
        computed_share: Share of the tokens asked of (caption, crop) pairs that are computed, because captions begin
            alike. Measured: 0.27 with `tiny`; 0.8 with random weights of SmolVLM.
        flops_per_s: Sustained on matrices in bfloat16: 30 % of an H100's peak.
        bytes_per_s: Of a GPU's memory: an H100's.
    """

    num_masks: int
    num_kinds: int = 2
    num_draws: int = 10
    num_others: int = 0
    crop_px: int = CROP_PX
    prompt_tokens: int = 24
    caption_tokens: int = 12
    computed_share: float = 0.6
    flops_per_s: float = 300e12
    bytes_per_s: float = 3.35e12


@dataclass(frozen=True, slots=True)
class PaperCost:
    """What one image costs.

    Attributes:
        tokens: Forwarded through the decoder: prompts once a crop, and one for each computed (prefix, crop) pair.
        gpu_s: GPU seconds, without the launches of kernels.
        cache_bytes: Keys and values of all of the tokens, if all crops of the image are decoded together.
        weight_bytes: Of the model.
    """

    tokens: int
    gpu_s: float
    cache_bytes: int
    weight_bytes: int


def configured_work(captions: CaptionsConfig, num_masks: int) -> Work:
    """Return the work that a configuration asks for an image of `num_masks` masks, beams aside."""
    sampling = captions.sampling
    others = num_masks - 1 if sampling.is_distinctive else 0
    if others > sampling.max_others:
        others = sampling.max_others if sampling.above_max_others == "nearest" else 0
    options = VlmOptions.of(captions)
    return Work(
        num_masks=num_masks,
        num_kinds=len(captions.crop_kinds()) + options.has_marked_crop,
        num_draws=len(sampling.top_k) + len(sampling.top_p),
        num_others=others,
        crop_px=options.crop_size,
    )


def paper_cost(shape: VlmShape, work: Work) -> PaperCost:
    """Return the cost of an image whose prefix tree stands as columns behind each crop's prompt."""
    num_crops = work.num_masks * work.num_kinds
    patches = (work.crop_px // shape.patch_px) ** 2
    image_tokens = patches // shape.merge**2
    prompt = image_tokens + work.prompt_tokens
    prefixes = work.computed_share * num_crops * work.num_draws * work.caption_tokens
    columns = prefixes * (1 + work.num_others)
    # A product of a row and a matrix takes two operations for each entry; attention four for each pair and channel.
    vision = 2 * patches * shape.vision_weights + 2 * image_tokens * shape.merger_weights
    vision += 4 * shape.vision_layers * shape.vision_hidden * patches**2
    attention = 4 * shape.layers * shape.heads * shape.head_size
    reading = 2 * prompt * shape.layer_weights + attention * prompt**2 / 2
    # A column attends to its crop's prompt and, masked or not, to the columns so far: on average half of all.
    column = 2 * shape.layer_weights + attention * (prompt + columns / num_crops / 2)
    # One product with the vocabulary serves a prefix: the other crops are read at the kept tokens alone.
    writing = columns * column + 2 * prefixes * shape.vocabulary * shape.hidden
    cache_bytes = (num_crops * prompt + columns) * shape.cache_bytes_a_token
    # Each step reads the decoder and the keys so far.
    read_bytes = work.caption_tokens * (_BYTES * (shape.layer_weights + shape.vocabulary * shape.hidden) + cache_bytes)
    reading_s = num_crops * (vision + reading) / work.flops_per_s
    writing_s = max(writing / work.flops_per_s, read_bytes / work.bytes_per_s)
    return PaperCost(round(num_crops * prompt + columns), reading_s + writing_s, round(cache_bytes), shape.weight_bytes)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of all models and works, and write the JSON."""
    given = options(__doc__, arguments)
    captions = load_config("base", given.config).captions if given.config else None
    rows = costs([configured_work(captions, num_masks) for num_masks in NUM_MASKS] if captions else CONTRASTS)
    shown = [
        {
            "model": row["model"],
            "masks": f"{row['work']['num_masks']}",
            "others": f"{row['work']['num_others']}",
            "tokens": f"{row['tokens']:,}",
            "GPU s": f"{row['gpu_s']:.2f}",
            "keys and values, GB": f"{row['cache_bytes'] / 1e9:.1f}",
            "weights, GB": f"{row['weight_bytes'] / 1e9:.1f}",
            "images a GPU-hour": f"{3600 / row['gpu_s']:,.0f}",
        }
        for row in rows
    ]
    kinds, draws = rows[0]["work"]["num_kinds"], rows[0]["work"]["num_draws"]
    print_table(f"an image, {kinds} crop kinds, {draws} draws a crop, on paper", shown, width=110)
    write_json(rows, given.json)


# Without contrast, with the nearest six others, with all.
CONTRASTS: Final = [
    Work(num_masks=num_masks, num_others=others) for num_masks in NUM_MASKS for others in (0, 6, num_masks - 1)
]


def costs(works: Sequence[Work]) -> list[dict[str, Any]]:
    """Return each work and the cost of an image by each published model."""
    return [
        {"model": shape.name, "work": asdict(work), **asdict(paper_cost(shape, work))}
        for shape in PUBLISHED
        for work in works
    ]


if __name__ == "__main__":
    main()
