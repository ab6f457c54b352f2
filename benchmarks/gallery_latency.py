"""Measures how long the gallery's page takes to answer: loading, τ slider, search, filters, keys, in headless Chromium.

    python -m benchmarks.gallery_latency [--expressions 5000 35000] [--repeats 15] [--json FILE]

Timed from the event to the frame after it, with styles, layout and paint: what a person waits for. The page is read
from a disk; its images are drawn noise, its masks ellipses, its expressions random words.
"""

from __future__ import annotations

import io
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from benchmarks.measurement import Row, options, peak_rss_bytes, report
from pseudoris.files.location import RunLocation
from pseudoris.schemas.ids import image_id, mask_id
from pseudoris.schemas.keep_rule import OPTIONAL_COLUMNS, KeepRule
from pseudoris.viewer.gallery_page import write_gallery
from pseudoris.viewer.gallery_sample import Gallery, GalleryImage, GallerySummary
from pseudoris.viewer.gallery_sample import Row as TableRow

if TYPE_CHECKING:
    from playwright.sync_api import Page

NUM_MASKS: Final = 5
PER_MASK: Final = 25
HEIGHT, WIDTH = 240, 320
# Ids of masks begin with one; the page reads their ends alone.
_IMAGE: Final = "0" * 16
VIEWPORT: Final = {"width": 1440, "height": 900}
_WORDS: Final = (
    *("red", "blue", "small", "large", "striped", "dog", "cat"),
    *("boat", "left", "right", "hat", "with", "near", "a"),
)
_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")

# Each acts once, numbered, and the frame after it ends the time. Put into the script: the page's policy knows no eval.
ACTIONS: Final = {
    "τ slider": "n => { const s = document.getElementById('tau'); s.value = 0.8 + 0.04 * n; return s; }",
    "search": "n => { const s = document.getElementById('find'); s.value = 'striped'.slice(0, 1 + n % 7); return s; }",
    "status": "n => document.querySelector(`[data-status=${['kept', 'rejected', 'all'][n % 3]}]`)",
    "next image": "n => document.body",
}
_TIMED: Final = """
async (repeats) => {
  const act = ACTION;
  const waited = [];
  for (let n = 0; n < repeats; n++) {
    const began = performance.now();
    const target = act(n);
    if (target.matches("input")) target.dispatchEvent(new Event("input", { bubbles: true }));
    else if (target.matches("button")) target.click();
    else target.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
    // The page's own work of a frame has come before this: what has passed since the frame began is its script.
    const script = await new Promise((done) => requestAnimationFrame((frame) => {
      const passed = performance.now() - frame;
      setTimeout(() => done(passed));
    }));
    waited.push([performance.now() - began, script]);
  }
  return waited;
}
"""


def build_gallery(num_expressions: int) -> Gallery:
    """Return a gallery of at least so many expressions, 25 a mask and 5 masks an image."""
    num_images = -(-num_expressions // (NUM_MASKS * PER_MASK))
    total = num_images * NUM_MASKS * PER_MASK
    summary = GallerySummary(
        source="benchmark",
        tau=1.0,
        rule=KeepRule(1.0),
        images=num_images,
        annotated=num_images,
        masks=num_images * NUM_MASKS,
        expressions=total,
        kept=total // 2,
    )
    return Gallery(summary, _images(num_images), num_images)


def _images(num_images: int) -> Iterator[GalleryImage]:
    generator = np.random.default_rng(0)
    for number in range(num_images):
        key = f"images/{number:05d}.png"
        noise = generator.integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
        encoded = io.BytesIO()
        Image.fromarray(noise).resize((WIDTH, HEIGHT)).save(encoded, "PNG")
        masks = tuple(_mask(index, generator) for index in range(NUM_MASKS))
        expressions = tuple(_expression(n % NUM_MASKS, generator) for n in range(NUM_MASKS * PER_MASK))
        yield GalleryImage(image_id(key), key, HEIGHT, WIDTH, encoded.getvalue(), masks, expressions)


def _mask(index: int, generator: np.random.Generator) -> TableRow:
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    centre, radii = generator.random(2) * (HEIGHT, WIDTH), generator.uniform(20, 60, 2)
    mask = ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 < 1
    counts = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode("ascii")
    return {
        "mask_id": mask_id(_IMAGE, index),
        "segmentation": {"size": [HEIGHT, WIDTH], "counts": counts},
        **{"area_px": int(mask.sum()), "predicted_iou": 0.9, "stability_score": 0.95, "prior": "none"},
    }


def _expression(mask: int, generator: np.random.Generator) -> TableRow:
    text = " ".join(generator.choice(_WORDS, generator.integers(3, 10)))
    d = float(generator.lognormal(0.0, 0.25))
    draw = {"crop": "context_1.2", "decoder": "top_p", "top_k": None, "top_p": 0.4, "log_prob": -4.5, "others": "all"}
    return {
        **{"text": text, "head_noun": text.split()[-1], "count": 2, "kept": d > 1.0, "weight": 1.0, "source": "model"},
        **{"uniqueness": d, "correctness": 0.3, "distinctiveness": d, **dict.fromkeys(OPTIONAL_COLUMNS)},
        **{"target_mask_ids": [mask_id(_IMAGE, mask)], "rival_mask_id": mask_id(_IMAGE, (mask + 1) % NUM_MASKS)},
        **{"samples": [{**draw, "num_others": NUM_MASKS - 1, "other_masks": []}] * 2, "judged": True, "unmet": []},
    }


def measure(num_expressions: int, *, repeats: int, chromium: str) -> list[Row]:
    """Return a row for loading and one an action; the note holds the slowest."""
    # Here: whoever benchmarks something else needs no browser.
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        gallery = build_gallery(num_expressions)
        count = gallery.summary.expressions
        address = Path(write_gallery(gallery, RunLocation.open(folder))).as_uri()
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=VIEWPORT)  # type: ignore[arg-type]
        page.goto(address)
        page.locator(".row").first.wait_for()
        loaded = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd / 1000")
        size = (Path(folder) / "index.html").stat().st_size / 2**20
        rows = [Row(f"load, {count:,} expressions", None, loaded, peak_rss_bytes(), f"page of {size:.1f} MiB")]
        rows += [_row(page, name, count, repeats) for name in ACTIONS]
        browser.close()
    return rows


def _row(page: Page, name: str, count: int, repeats: int) -> Row:
    waited = page.evaluate(_TIMED.replace("ACTION", ACTIONS[name]), repeats)
    whole_ms, script_ms = [each[0] for each in waited], [each[1] for each in waited]
    note = f"of it script {statistics.median(script_ms):.0f} ms; slowest of {repeats}: {max(whole_ms):.0f} ms"
    return Row(f"{name}, {count:,} expressions", None, statistics.median(whole_ms) / 1000, peak_rss_bytes(), note)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each action and size."""
    given = options(__doc__, arguments)
    chromium = next(filter(None, map(shutil.which, _NAMES)), None)
    if chromium is None:
        sys.exit(f"none of {', '.join(_NAMES)} is on the PATH: install a browser")
    rows = [row for size in given.expressions for row in measure(size, repeats=given.repeats, chromium=chromium)]
    report("gallery", rows, given.json)


if __name__ == "__main__":
    main()
