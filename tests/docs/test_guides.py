"""The guides: their configurations load, their recipes run, and what they tell of the code and of figures is so."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

from evidence.experiments.quality.parts import RECORDS, read_record, record_path
from pseudoris.pipeline.run_contract import BYTES_PER_DRAW, BYTES_PER_IMAGE, BYTES_PER_MASK, BYTES_PER_SHARD
from pseudoris.primitives import rle
from pseudoris.schemas.config_layers import load_config
from pseudoris.training.calibration.confidence_fit import Bounds
from pseudoris.workers.masks.instances import read_instance_table
from tests.builders.images import oriented

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def guide(name: str) -> str:
    return (ROOT / "docs" / "guides" / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "listens", "composes"),
    [("listener.yaml", True, False), ("listener-composer.yaml", True, True), ("vote.yaml", False, False)],
)
def test_the_configurations_load_over_the_preset(name, listens, composes):
    config = load_config("tiny", EXAMPLES / name)
    assert (config.captions.listening is not None) == listens
    assert config.filtering.fitted_values.confidence is not None
    assert config.filtering.fitted_values.confidence.needs_listener == listens
    assert config.filtering.keep[0].column == "confidence"
    assert (config.composing is not None) == composes
    plain, tree = load_config("tiny").method(), config.method()
    for each in (plain, tree):
        del each["captions"]["listening"], each["composing"]
        for key in ("tau", "fitted", "keep"):
            del each["filtering"][key]
    assert tree == plain


def test_the_best_preset_is_the_example_with_weights_of_its_own_and_more_to_say():
    example = load_config("tiny", EXAMPLES / "listener-composer.yaml").method()
    preset = load_config("tiny-composed").method()
    differing = {
        f"{section}.{name}"
        for section, settings in preset.items()
        if isinstance(settings, dict)
        for name, value in settings.items()
        if value != example[section].get(name)
    }
    assert differing == {
        "captions.weights",
        "filtering.fitted",
        "composing.max_per_mask",
        "composing.max_per_form",
        "composing.min_first",
        "composing.kinds",
        "composing.bank",
    }
    assert {name for name, value in preset.items() if not isinstance(value, dict) and value != example[name]} == set()


def test_both_listeners_have_the_weights_and_bounds_that_the_record_has():
    record = read_record(record_path(RECORDS, "listening")).result
    posterior = load_config("tiny", EXAMPLES / "listener-composer.yaml").filtering.fitted_values.posterior
    fitted = record["composer_weights"][-1]
    assert fitted["scenes"] == record["scenes"]["development"]
    assert {name: getattr(posterior, name) for name in fitted["weights"]} == fitted["weights"]
    for name, rule, coverage in (("listener", "all", 0.65), ("listener-composer", "all+weighing composer", 0.8)):
        config = load_config("tiny", EXAMPLES / f"{name}.yaml").filtering
        # The record is older than the key: of its 700 scenes none has a mask that is alone (counted with `tiny`).
        expected = {**record["weights"]["all"], "lone_log_ratio": 0.0}
        assert config.fitted_values.confidence.model_dump(exclude_defaults=True) == expected
        (bounds,) = (aim["bounds"][rule] for aim in record["aims"] if aim["coverage"] == coverage)
        assert [str(each) for each in config.keep] == Bounds(bounds["min_confidence"], bounds["max_rank"]).conditions()


MASKS = guide("masks")
DETECT, WRITE_TABLE, WRAP_RESULTS = re.findall(r"^```python\n(.*?)^```$", MASKS, re.MULTILINE | re.DOTALL)
SIZE = (12, 20)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of two photographs below the working folder; the second lies on its side, by its EXIF."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "more").mkdir(parents=True)
    Image.new("RGB", SIZE[::-1], "red").save("photos/a.png")
    Path("photos/more/b.jpg").write_bytes(oriented(Image.new("RGB", SIZE, "blue"), 6, "JPEG"))


def left_half(height, width):
    masks = np.zeros((1, height, width), dtype=bool)
    masks[:, :, : width // 2] = True
    return masks


def predictor(image):
    """Find the left half of an image, as a `DefaultPredictor` of detectron2 answers."""
    found = SimpleNamespace(pred_masks=torch.from_numpy(left_half(*image.shape[:2])), scores=torch.tensor([0.75]))
    return {"instances": SimpleNamespace(to=lambda device: found)}


def test_the_table_of_a_detector_names_each_photograph_and_its_upright_instances(photos):
    exec(DETECT + WRITE_TABLE, {"predictor": predictor})
    table = read_instance_table("instances.parquet", 0.5)
    for key in ("a.png", "more/b.jpg"):
        (counts,) = table.instances("0" * 16, key, SIZE).counts
        np.testing.assert_array_equal(rle.decode([counts], SIZE), left_half(*SIZE))
    assert read_instance_table("instances.parquet", 0.8).instances("0" * 16, "a.png", SIZE).rows == ()


def test_coco_results_beside_their_images_are_a_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = coco.encode(np.asfortranarray(left_half(*SIZE)[0], dtype=np.uint8))
    result = {
        "image_id": 7,
        "category_id": 1,
        "score": 0.9,
        "segmentation": {**code, "counts": code["counts"].decode()},
    }
    listed = {"id": 7, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}
    Path("images.json").write_text(json.dumps({"images": [listed], "annotations": []}))
    Path("coco_instances_results.json").write_text(json.dumps([result, {**result, "score": 0.2}]))
    exec(WRAP_RESULTS, {})
    found = read_instance_table("instances.json", 0.5).instances("0" * 16, "a.png", SIZE)
    assert found.rows == (0,)
    np.testing.assert_array_equal(rle.decode(found.counts, SIZE), left_half(*SIZE))


def test_the_page_tells_the_priors_of_the_presets():
    prior = load_config("paper").masks.prior
    assert (prior.kind, prior.duplicates, prior.untouched) == ("unset", "keep", "first_mask")
    for name, kind in {"duplicates": "keep", "untouched": "first_mask", "match": "intersection"}.items():
        assert re.search(rf"^\| `{name}` .* \| `{kind}` \|$", MASKS, re.MULTILINE)
    assert {load_config(preset).masks.prior.kind for preset in ("tiny", "base")} == {"none"}


ROOMS = ("primitives", "schemas", "files", "images", "store", "pipeline", "workers", "cli")
TROUBLES = guide("troubleshooting")
HEADINGS = re.findall(r"^### .*?`(.+)`", TROUBLES, re.MULTILINE)
# What `…` stands for on the page.
_HOLE = "\0"


@cache
def texts() -> list[str]:
    """Return every text of the source; what is put into it later is a hole."""
    found = []
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(re.sub(r"%(\.\d+)?[a-z]", _HOLE, node.value))
                elif isinstance(node, ast.JoinedStr):
                    found.append(
                        "".join(each.value if isinstance(each, ast.Constant) else _HOLE for each in node.values)
                    )
    return found


@pytest.mark.parametrize("heading", HEADINGS)
def test_a_heading_is_a_message_of_the_source(heading):
    if " " not in heading:
        assert heading in texts()  # a word is anywhere: it must be the whole text
        return
    words = ".*".join(re.escape(each.strip()) for each in heading.split("…"))
    assert any(re.search(words, text) for text in texts()), f"no message of the source has the words {heading!r}"


RESULTS = ROOT / "evidence" / "benchmarks" / "results"
SIZES = (10_000, 1_000_000, 50_000_000)
# What the page assumes.
NUM_MASKS, DRAWS_A_MASK, LOST, PRICE = 10, 44, 0.02, 3
# docs/records/scale.md: a start, and growth for each 1,000 shards of a window, which has 100,000 at most.
DRIVER_GB, DRIVER_STEP_GB, HEAD_GB, HEAD_STEP_GB, WINDOW = 0.25, 0.003, 1.0, 0.013, 100_000


def measured(name: str) -> dict[str, dict]:
    return {case["case"]: case for case in json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))}


def seconds() -> dict[str, float]:
    """Return the GPU seconds of an image of 10 masks."""
    sweep = measured("gpu-base-sweep")
    best = (
        "masks, masks.points_per_batch=1024",
        "captions, captions.crops_together=512",
        "filter, filtering.batch_size=1024",
    )
    return {
        "base": 1 / measured("gpu-base")["all stages, base, 2 scenes with 10 masks, bfloat16"]["rate"],
        "base, tuned": sum(1 / sweep[f"sweep, base, {each}"]["rate"] for each in best),
        "paper": 1 / measured("gpu-paper")["all stages, paper, 1 scenes with 10 masks, bfloat16"]["rate"],
    }


def shard_images(preset: str) -> int:
    return load_config(preset.partition(",")[0]).shards.max_images


def shown(value: float) -> str:
    """Return two digits that count, without an exponent."""
    return f"{round(value, 1 - math.floor(math.log10(value))):,.0f}" if value >= 100 else f"{value:.2g}"


def hour_rows() -> Iterator[str]:
    for images in SIZES:
        for preset, each_s in seconds().items():
            shard = shard_images(preset)
            shard_hours = min(shard, images) * each_s * (1 + LOST) / 3600
            hours = [shown(math.ceil(images / shard / gpus) * shard_hours) for gpus in (8, 64)]
            gpu_hours = images * each_s * (1 + LOST) / 3600
            yield f"| {images:,} | {preset} | {shown(gpu_hours)} | {' | '.join(hours)} | {shown(gpu_hours * PRICE)} |"


def byte_rows() -> Iterator[str]:
    for images in SIZES:
        num_shards = math.ceil(images / shard_images("base"))
        in_window = min(num_shards, WINDOW) / 1_000
        tables = num_shards * BYTES_PER_SHARD + images * (
            BYTES_PER_IMAGE + NUM_MASKS * (BYTES_PER_MASK + DRAWS_A_MASK * BYTES_PER_DRAW)
        )
        memory = (DRIVER_GB + DRIVER_STEP_GB * in_window, HEAD_GB + HEAD_STEP_GB * in_window)
        gb = " | ".join(f"{each:.2g}" for each in memory)
        yield f"| {images:,} | {num_shards:,} | {shown(tables / 1e9)} | {gb} |"


def test_the_page_shows_what_the_figures_give():
    page = guide("sizing")
    rows = [*hour_rows(), *byte_rows()]
    assert [row for row in rows if row not in page] == [], "\n".join(rows)
    for preset, each_s in seconds().items():
        assert f"| {preset} | {each_s:.2f} |" in page
