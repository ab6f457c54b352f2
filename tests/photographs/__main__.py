"""Prints what the composer made of the test photographs in a run OUT: `python -m tests.photographs OUT [--texts N]`."""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds

from pseudoris.schemas.ids import mask_index
from tests.photographs.judge import Place, coco_categories, places, tally, verdict
from tests.photographs.told import things


def main() -> None:
    """Print verdicts by kind, absences of COCO's categories, and N texts of an even draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--texts", type=int, default=0)
    parser.add_argument("--wrong", action="store_true")
    given = parser.parse_args()
    rows, found = composed(given.out)
    for (kind, verdict_of), number in sorted(tally(rows, found).items(), key=str):
        print(f"{kind}: {verdict_of} {number}")
    print("absences of COCO's categories, and those that an instance has:", *absences(rows, found))
    if given.wrong:
        for row in rows:
            targets = [mask_index(each) for each in row["target_mask_ids"]]
            if verdict(row, found[row["image_id"]], targets) is False:
                print("wrong", row["image_id"], row["kind"], targets, round(row["confidence"], 3), row["text"])
    for row in random.Random(0).sample(rows, min(given.texts, len(rows))):
        print(f"{row['kind']:9}  {row['text']}")


def composed(out: Path) -> tuple[Sequence[Mapping[str, Any]], Mapping[str, Place]]:
    """Return a run's composed rows, and what its images show."""
    rows = ds.dataset(out / "expressions").to_table(filter=ds.field("source") == "composer").to_pylist()
    return rows, places(ds.dataset(out / "masks").to_table().to_pylist(), things())


def absences(rows: Sequence[Mapping[str, Any]], found: Mapping[str, Place]) -> tuple[int, int]:
    """Return how many absences name a category of COCO by a bare noun, and of how many the image has an instance."""
    judged = Counter[bool]()
    for row in rows:
        categories = coco_categories(row["head_noun"])
        if row["kind"] == "none" and categories and row["text"] == f"the {row['head_noun']}":
            judged[not categories.isdisjoint(thing.category for thing in found[row["image_id"]].things)] += 1
    return judged[True] + judged[False], judged[True]


if __name__ == "__main__":
    main()
