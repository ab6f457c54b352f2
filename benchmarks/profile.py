"""Shows which operations the time of one image goes to: those of the baselines and ours.

    python -m benchmarks.profile [--preset base] [--masks 4] [--steps 12] [--points 8] [--set KEY=VALUE …] [--json FILE]

Captions: the authors' loop against the cached engine, one crop kind. Masks: Meta's generator against ours. Seconds are
torch's own, by kind of operation, nested ones left out. Presets other than `tiny` run on random weights.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final

from torch.profiler import ProfilerActivity, profile

from benchmarks.captioner import AuthorsLoop, crops_for, one_crop_kind, special_tokens
from benchmarks.mask_sides import Sides
from benchmarks.measurement import machine, options, random_weights, write_json
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.workers.captions.captioner import coca_engine
from pseudoris.workers.checkpoints.openclip import load_coca
from pseudoris.workers.device import prepare_device

# By the beginning of an operation's name; the first that fits counts.
_KINDS: Final = {
    "attention": ("scaled_dot", "_scaled_dot", "_flash", "_efficient"),
    "matrix products": ("addmm", "mm", "bmm", "baddbmm", "_linear_pointwise", "linear", "matmul", "mkldnn_linear"),
    "convolutions": ("mkldnn_convolution", "convolution", "_convolution", "slow_conv", "thnn_conv", "_slow_conv"),
    "gathering, copying": ("copy_", "index", "_index", "cat", "gather", "scatter", "clone", "fill", "repeat"),
    "softmax, norms": ("_softmax", "softmax", "native_layer_norm", "logsumexp", "_log_softmax"),
    "sorting": ("sort", "topk", "argsort", "_unique", "unique", "nonzero"),
    "interpolation": ("upsample",),
    "activations": ("gelu", "relu", "sigmoid", "exp", "mul", "add", "sub", "div", "where", "masked_fill", "neg"),
    "comparisons, sums": ("gt", "lt", "ge", "le", "eq", "sum", "max", "min", "amax", "any", "all", "cumsum", "logical"),
}
_OTHER: Final = "other"


def kind_of(name: str) -> str:
    """Return the kind of an operation, `aten::addmm` say."""
    short = name.rpartition("::")[2]
    return next((kind for kind, beginnings in _KINDS.items() if short.startswith(beginnings)), _OTHER)


def seconds_by_kind(work: Callable[[], object]) -> dict[str, float]:
    """Return the seconds of each kind of operation in one call of `work`, most first."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        work()
    seconds: dict[str, float] = defaultdict(float)
    for event in profiled.key_averages():
        seconds[kind_of(event.key)] += event.self_cpu_time_total / 1e6
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def measure(config: RunConfig, *, num_masks: int, num_steps: int) -> dict[str, dict[str, float]]:
    """Return the seconds by kind of each side."""
    prepare_device(config.compute)
    captions = one_crop_kind(config.captions, num_steps=num_steps)
    model = load_coca(captions.architecture, captions.weights).requires_grad_(False)
    image = crops_for(config, num_masks, model.visual.image_size[0])
    special, seed = special_tokens(model), config.compute.seed
    authors = AuthorsLoop(model, special, captions, seed=seed)
    engine = coca_engine(model, special, captions, seed=seed)
    sides = Sides(config, num_images=1, kept_share=0.4, is_remembering=True)
    sides.agree()
    case = f"{num_masks} masks, 1 crop kind, {num_steps} steps"
    grid = f"{config.masks.points_per_side}² points, without the image encoder"
    return {
        f"captions before: the authors' loop, {case}": seconds_by_kind(lambda: authors.sample(image, 0)),
        f"captions after: ours, {case}": seconds_by_kind(lambda: engine.generate(image)),
        f"masks before: Meta's generator, {grid}": seconds_by_kind(lambda: sides.run("meta")),
        f"masks after: ours, {grid}": seconds_by_kind(lambda: sides.run("ours")),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Profile what the command line asks for, print the tables, write the JSON."""
    given = options(__doc__, arguments)
    assignments = ["compute.device=cpu", f"masks.points_per_side={given.points}", *given.assignments]
    assignments += random_weights(given.preset, ("masks", "captions"))
    config = load_config(given.preset, assignments=assignments)
    found = measure(config, num_masks=given.masks, num_steps=given.steps)
    print(machine())
    for case, seconds in found.items():
        total = sum(seconds.values())
        print(f"\n{case}: {total:.2f} s")
        for kind, taken in seconds.items():
            print(f"  {kind:<20} {taken:>8.3f} s {taken / total:>5.0%}")
    write_json([{"case": case, "seconds": seconds} for case, seconds in found.items()], given.json)


if __name__ == "__main__":
    main()
