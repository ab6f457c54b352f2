"""Measures the perceptual hash of `--exclude`: copies found, and different images taken for copies, by distance.

`python -m experiments.exclusion --photos FOLDER --json FILE` prints the tables of docs/exclusions.md. Each image is
compared with copies of itself, and with every other image of its set. Scenes of one world share objects and
backgrounds, and so look more alike than photographs.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from PIL import Image

from pseudoris.images.perceptual_hash import perceptual_hash
from pseudoris.images.pixels import decode_upright
from pseudoris.schemas.config import ImagesConfig
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.synthworld.worlds import WORLDS

DISTANCES: Final = (0, 2, 4, 6, 8, 10, 12, 14, 16)
PHOTOGRAPHS: Final = "photographs"
RECORD: Final = Path(__file__).parent / "results" / "exclusion.json"


def _encoded(quality: int) -> Callable[[Image.Image], Image.Image]:
    def copy(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")

    return copy


def _resized(factor: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.resize(
        (max(1, round(image.width * factor)), max(1, round(image.height * factor))), Image.Resampling.BICUBIC
    )


def _cropped(percent: int) -> Callable[[Image.Image], Image.Image]:
    def copy(image: Image.Image) -> Image.Image:
        dx, dy = round(image.width * percent / 100), round(image.height * percent / 100)
        return image.crop((dx, dy, image.width - dx, image.height - dy))

    return copy


COPIES: Final[Mapping[str, Callable[[Image.Image], Image.Image]]] = {
    **{f"JPEG {quality}": _encoded(quality) for quality in (90, 70, 50)},
    **{f"resized ×{factor:g}": _resized(factor) for factor in (0.5, 0.75, 2.0)},
    **{f"cropped {percent} % a side": _cropped(percent) for percent in (2, 5, 10)},
}


def photographs(folder: Path) -> Iterator[Image.Image]:
    """Yield the photographs of a folder, upright, in the order of their names."""
    for path in sorted(folder.glob("*.jpg")):
        yield Image.fromarray(decode_upright(path.read_bytes(), ImagesConfig()))


def scenes(world: str, count: int) -> Iterator[Image.Image]:
    """Yield fresh scenes of a world."""
    for position in range(count):
        yield Image.fromarray(render(make_scene(Split.TEST, position, world=world)).image)


def measure(images: Iterator[Image.Image]) -> dict[str, Any]:
    """Return the number of images, the distance of each copy by kind, and the pairs of images within each distance."""
    originals: list[int] = []
    copies: dict[str, list[int]] = {kind: [] for kind in COPIES}
    for image in images:
        own = _hash(image)
        originals.append(own)
        for kind, copy in COPIES.items():
            copies[kind].append((own ^ _hash(copy(image))).bit_count())
    return {
        "images": len(originals),
        "copies": {kind: _rates(found) for kind, found in copies.items()},
        "pairs": len(originals) * (len(originals) - 1) // 2,
        "false_pairs": {str(each): count for each, count in zip(DISTANCES, _pairs(originals), strict=True)},
    }


def _hash(image: Image.Image) -> int:
    return int(perceptual_hash(np.asarray(image.convert("RGB"))), 16)


def _rates(distances: Sequence[int]) -> dict[str, float]:
    return {str(each): round(float(np.mean(np.array(distances) <= each)), 4) for each in DISTANCES}


def _pairs(hashes: Sequence[int]) -> list[int]:
    """Return how many pairs of different images are within each of `DISTANCES`."""
    values = np.array(hashes, np.uint64)
    found = np.zeros(len(DISTANCES), np.int64)
    for row in range(len(values) - 1):
        apart = np.bitwise_count(values[row + 1 :] ^ values[row])
        found += [(apart <= each).sum() for each in DISTANCES]
    return found.tolist()


def tables(sets: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a Markdown table of the photographs, and one of the scenes of all worlds: by distance."""
    lines = []
    for name, found in _pooled(sets).items():
        lines += [f"| {name}, {found['images']:,} images | {' | '.join(f'≤ {each}' for each in DISTANCES)} |"]
        lines += [f"|---|{'--:|' * len(DISTANCES)}"]
        for kind, rates in found["copies"].items():
            lines.append(f"| {kind} | {' | '.join(f'{100 * rates[str(each)]:.0f} %' for each in DISTANCES)} |")
        counts = " | ".join(f"{found['false_pairs'][str(each)]:,}" for each in DISTANCES)
        lines += [f"| different images, of {found['pairs']:,} pairs | {counts} |", ""]
    return "\n".join(lines)


def _pooled(sets: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The sets with one of all worlds, which have as many scenes each; pairs are pairs within a world."""
    worlds = [found for name, found in sets.items() if name != PHOTOGRAPHS]
    mean = {
        kind: {str(d): float(np.mean([found["copies"][kind][str(d)] for found in worlds])) for d in DISTANCES}
        for kind in COPIES
    }
    pooled = {
        "images": sum(found["images"] for found in worlds),
        "copies": mean,
        "pairs": sum(found["pairs"] for found in worlds),
        "false_pairs": {str(d): sum(found["false_pairs"][str(d)] for found in worlds) for d in DISTANCES},
    }
    photos = {PHOTOGRAPHS: sets[PHOTOGRAPHS]} if PHOTOGRAPHS in sets else {}
    return {**photos, f"scenes of {len(worlds)} worlds": pooled}


def main(
    photos: Annotated[Path | None, typer.Option(help="Folder of photographs (.jpg); without it, only scenes.")] = None,
    num_scenes: Annotated[int, typer.Option("--scenes", min=2, help="Scenes of each world.")] = 1_000,
    out: Annotated[Path, typer.Option("--json", help="Where the record goes.")] = RECORD,
) -> None:
    """Measure, print the tables, and write the record."""
    sets = {} if photos is None else {PHOTOGRAPHS: measure(photographs(photos))}
    sets |= {f"scenes, world {world}": measure(scenes(world, num_scenes)) for world in WORLDS}
    out.write_text(json.dumps({"distances": DISTANCES, "sets": sets}, indent=1) + "\n", encoding="utf-8")
    typer.echo(tables(sets))


if __name__ == "__main__":
    typer.run(main)
