"""Prints what captioning an image by a vision-language model costs on paper; nothing is run.

    python -m benchmarks.paper_cost [--json FILE]

The assumptions are those of `pseudoris.workers.captions.paper_cost`; docs/records/scale.md explains them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.measurement import options, print_table, write_json
from pseudoris.workers.captions.paper_cost import NUM_MASKS, PUBLISHED, Work, paper_cost


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of all models and contrasts, and write the JSON."""
    given = options(__doc__, arguments)
    rows = costs()
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
    print_table("an image, two crop kinds, ten draws a crop, on paper", shown, width=110)
    write_json(rows, given.json)


def costs() -> list[dict[str, Any]]:
    """Return the work and the cost of an image: without contrast, with the nearest six others, with all."""
    return [
        {"model": shape.name, "work": asdict(work), **asdict(paper_cost(shape, work))}
        for shape in PUBLISHED
        for num_masks in NUM_MASKS
        for work in (Work(num_masks=num_masks, num_others=others) for others in (0, 6, num_masks - 1))
    ]


if __name__ == "__main__":
    main()
