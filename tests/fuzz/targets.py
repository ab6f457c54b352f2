"""The readers of files that a stranger may have written, each with small sound inputs.

What needs torch is imported where it is used, so that the other targets' processes start in a second.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import yaml
from PIL import Image

from pseudoris.files.location import RunLocation
from pseudoris.images.pixels import (
    common_suffix,
    decode_proven,
    decode_upright,
    exif_orientation,
    is_plain_jpeg,
)
from pseudoris.images.prover import Prover
from pseudoris.interchange.brush_strokes import brush_strokes
from pseudoris.interchange.human_refs import HumanAnnotation, read_human
from pseudoris.interchange.imports import label_studio
from pseudoris.interchange.imports.annotation_files import read_gref, read_refer
from pseudoris.interchange.imports.coco_annotation import read_coco
from pseudoris.interchange.imports.human_annotation import Annotation, annotate_image
from pseudoris.interchange.imports.reason_annotation import read_reason
from pseudoris.primitives.errors import ConfigError, ImageError, PseudorisError
from pseudoris.primitives.rle import ious
from pseudoris.schemas.config import ImagesConfig
from pseudoris.schemas.config_layers import config_hash, load_config
from pseudoris.schemas.ids import image_id
from pseudoris.schemas.shard import ShardImage
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.manifest import cached_receipts, manifest_numbers, read_manifest, write_manifest
from pseudoris.store.runs.plan import iter_plan, stream_plan
from pseudoris.store.runs.receipts import latest_receipts
from pseudoris.store.sources import open_source
from pseudoris.store.sources.planned_images import read_entries
from pseudoris.store.tables.run_reader import Run
from tests.builders.human import box_mask, document, image_row, object_row, reference, rle, runs
from tests.builders.images import animation, encode, jpeg, oriented, png, png_16_bit, png_with, smooth_pixels
from tests.builders.sources import parquet_bytes, plan_of, tar_bytes, write_files
from tests.fuzz.fuzzer import Target
from tests.fuzz.mutator import NUMBERS, mutated, of_trees
from tests.store.builders import commit, make_entries, start_run

Read = Callable[[bytes], object]

# Small, so that a sound image stays far below the memory that a target may take.
LIMITS = ImagesConfig(max_pixels=2**20, max_bytes=2**20, decoder_timeout_s=4.0, decoder_memory_bytes=2**28)
CONFIG = load_config("tiny", None, ["images.max_pixels=1048576", "images.max_bytes=1048576"])
MAX_READ = 64
SPLITS = ("train", "val")
SIZE = (24, 32)


# Image decoders.


@cache
def image_seeds() -> list[bytes]:
    """Return a small image of every format that is accepted."""
    small = smooth_pixels(10, 12)
    picture = Image.fromarray(small)
    clear = Image.fromarray(small).convert("RGBA")
    clear.putalpha(120)
    return [
        *(png(8, 9), png_with((b"tRNS", b"\0\x7f" * 3)), png_16_bit(small[..., 0].astype("uint16") * 200)),
        *(encode(clear), encode(picture.convert("P", palette=Image.Palette.ADAPTIVE)), encode(picture.convert("1"))),
        *(
            jpeg(10, 12),
            jpeg(10, 12)[:-2],
            encode(picture, "JPEG", progressive=True),
            encode(picture.convert("CMYK"), "JPEG"),
        ),
        *(oriented(small, 6, "JPEG"), oriented(small, 5, "TIFF"), oriented(small, 8, "WEBP")),
        *(animation(name, [small, 255 - small]) for name in ("GIF", "WEBP", "PNG")),
        *(
            encode(picture, "TIFF", compression=name)
            for name in ("raw", "tiff_lzw", "tiff_deflate", "jpeg", "packbits")
        ),
        encode(small[..., 0].astype("uint16") * 200, "TIFF", compression="packbits"),
        *(encode(picture, "BMP"), encode(picture.convert("P"), "BMP"), encode(clear, "WEBP", lossless=True)),
        *(encode(picture, "JPEG2000"), encode(picture, "AVIF"), encode(picture, "MPO")),
    ]


def vary_image(draw: Random, seeds: Sequence[bytes]) -> bytes:
    """Return a damaged image; a PNG mostly with new checksums, so that its decoder looks at the damage."""
    data = mutated(draw, seeds)
    return png_with_new_checksums(data) if draw.random() < 0.7 else data


def png_with_new_checksums(data: bytes) -> bytes:
    changed, at = bytearray(data), 8
    while data.startswith(b"\x89PNG") and at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        changed[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end])) if end + 4 <= len(data) else b""
        at = end + 4
    return bytes(changed)


def prepare_images(folder: Path) -> Read:
    """Return what proves an image, and looks at its header without a child process, as exports do."""
    prover = Prover(LIMITS).__enter__()

    def read(data: bytes) -> None:
        with suppress(ImageError):
            _each(
                *(partial(look, data) for look in (exif_orientation, common_suffix)),
                partial(is_plain_jpeg, data, LIMITS),
            )
        size = prover.prove(data).size
        assert decode_proven(data).shape == (*size, 3)
        assert decode_upright(data, LIMITS).shape == (*size, 3)

    return read


# SOURCE: tars and tables.


@cache
def tar_seeds() -> list[bytes]:
    """Return tars of images: of several members, with long names, and two behind one another."""
    members = [("a/0.png", png(6, 7)), ("a/0.txt", b"a text"), ("../1.jpg", jpeg(8, 8)), ("é/2.png", png(5, 5, seed=2))]
    long = [("d/" * 120 + "3.png", png(4, 4)), ("4.png", b"")]
    return [tar_bytes(members), tar_bytes(long), tar_bytes(members[:1]) + tar_bytes(members[2:])]


def vary_tar(draw: Random, seeds: Sequence[bytes]) -> bytes:
    """Return a damaged tar; mostly with new checksums, without which its reader stops at the first header."""
    data = mutated(draw, seeds) if draw.random() < 0.7 else draw.choice(seeds)
    if draw.random() < 0.5:
        data = tar_with_another_size(draw, data)
    return tar_with_new_checksums(data) if draw.random() < 0.7 else data


def tar_with_another_size(draw: Random, data: bytes) -> bytes:
    """Return a tar in which one header claims another size, in digits or in binary."""
    headers = [at for at in range(0, len(data) - 511, 512) if data[at + 257 : at + 262] == b"ustar"]
    if not headers:
        return data
    at, number = draw.choice(headers) + 124, draw.choice(NUMBERS)
    binary = bytes([draw.choice((0x80, 0xFF))]) + number.to_bytes(11, "big")
    field = b"%011o\0" % number if number < 8**11 and draw.random() < 0.7 else binary
    return data[:at] + field + data[at + 12 :]


def tar_with_new_checksums(data: bytes) -> bytes:
    changed = bytearray(data)
    for at in range(0, len(data) - 511, 512):
        if data[at + 257 : at + 262] == b"ustar":
            changed[at + 148 : at + 156] = b" " * 8
            changed[at + 148 : at + 156] = b"%06o\0 " % sum(changed[at : at + 512])
    return bytes(changed)


@cache
def table_seeds() -> list[bytes]:
    """Return tables of images: bytes, structs and uris, in several row groups."""
    images = [png(4 + n, 5, seed=n) for n in range(4)]
    return [
        parquet_bytes({"bytes": images, "label": ["a", "b", "c", "d"]}, row_group_size=2),
        parquet_bytes({"image": [{"bytes": data, "path": None} for data in images]}),
        parquet_bytes({"uri": ["a.png", "../b.png", "file:///etc/passwd", "c\0d", "http://127.0.0.1/x.png", None]}),
        parquet_bytes({"bytes": images * 40, "url": ["u"] * 160}, row_group_size=50),
    ]


def vary_table(draw: Random, seeds: Sequence[bytes]) -> bytes:
    """Return a damaged table; half of the time its footer alone, whose length is then told anew."""
    data = draw.choice(seeds)
    if draw.random() < 0.5:
        return mutated(draw, seeds)
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    footer = mutated(draw, [data[start:-8]])
    return data[:start] + footer + len(footer).to_bytes(4, "little") + data[-4:]


def prepare_source(name: str) -> Callable[[Path], Read]:
    """Return what lists a SOURCE of one file, and reads its first images."""

    def prepare(folder: Path) -> Read:
        path = folder / name

        def read(data: bytes) -> None:
            path.write_bytes(data)
            source = open_source(str(folder), CONFIG.source)
            items = list(source.list())
            groups: dict[str | None, list[Any]] = {}
            for item in items[:MAX_READ]:
                groups.setdefault(item.boundary, []).append(item)
            for group in groups.values():
                for _, outcome in read_entries(source.root, plan_of(group), CONFIG):
                    assert isinstance(outcome, bytes | ImageError)

        return read

    return prepare


# Annotations.


def coco_tree(*segmentations: Any) -> Any:
    objects = [object_row(n + 1, 1, caption=f"thing {n}") for n in range(len(segmentations))]
    rows = [{**row, "segmentation": each} for row, each in zip(objects, segmentations, strict=True)]
    rows[0] |= {"captions": ["one", "two"], "iscrowd": 0}
    return json.loads(document([image_row(1, "a.png"), image_row(2, "b/c.png", height=None, width=None)], rows))


def coco_trees() -> list[Any]:
    """Return sound documents with every form of a mask."""
    box = box_mask((4, 3, 12, 9))
    polygons = [[4, 3, 12, 3, 12, 9.5], [0, 0, 31.5, 0, 31.5, 23, 0, 23]]
    return [coco_tree(polygons, rle(box)), coco_tree(runs(box), [rle(box)], [], None)]


def _written(tree: Any) -> bytes:
    return json.dumps(tree).encode()


def _annotated(annotation: Annotation) -> None:
    data = png(*SIZE)
    for human in annotation.images:
        image = ShardImage(0, image_id(human.path), human.path, data, "0" * 64, *SIZE)
        annotate_image(image, human, orientation="stored", limits=LIMITS)


INSTANCES = _written(coco_trees()[0])


def prepare_annotation(parse: Callable[[bytes], Annotation]) -> Callable[[Path], Read]:
    """Return what reads an annotation, and lays its masks on an image."""
    return lambda folder: lambda data: _annotated(parse(data))


def parse_coco(data: bytes) -> Annotation:
    """Read COCO JSON; it is a file of captions beside a sound one too."""
    with suppress(ConfigError):
        read_coco(INSTANCES, "instances.json", data, "captions.json")
    return read_coco(data, "instances.json")


def refer_trees() -> list[Any]:
    one = [reference(n, n, 1, f"thing {n}", "the left one", split=SPLITS[n % 2]) for n in (1, 2)]
    return [one, [{key: ref[key] for key in ("ann_id", "image_id", "split", "sentences")} for ref in one]]


def _pickled(tree: Any) -> bytes:
    return pickle.dumps(tree, 2)


def gref_trees() -> list[Any]:
    """Return sound references of gRefCOCO: of one object, of both, of none."""
    ids = ([1], [2, 1], [-1])
    return [[reference(n, each, 1, f"thing {n}", split=SPLITS[n % 2]) for n, each in enumerate(ids)]]


def reason_trees() -> list[Any]:
    labels = ("target", "ignore", "flag")
    shapes = [{"label": each, "points": [[4, 3], [12.5, 3], [12, 9 + n]]} for n, each in enumerate(labels)]
    return [{"text": ["what one drinks from"], "is_sentence": True, "shapes": each} for each in (shapes, [])]


def studio_trees() -> list[Any]:
    """Return sound exports of Label Studio: strokes in runs, a polygon, texts, and a task that was skipped."""
    pixels = np.zeros(SIZE, np.bool_)
    pixels[3:9, 4:20] = True
    shared = {"original_height": SIZE[0], "original_width": SIZE[1], "image_rotation": 0, "to_name": "image"}
    values = {
        "brushlabels": {"format": "rle", "rle": brush_strokes(pixels), "brushlabels": ["object"]},
        "textarea": {"text": ["a red mug", "what one drinks from"]},
        "polygonlabels": {"points": [[10, 10], [60.5, 10], [60, 90]], "polygonlabels": ["object"]},
    }
    names = {"brushlabels": "mask", "textarea": "text", "polygonlabels": "shape"}
    results = [
        {
            "id": "b" if kind == "polygonlabels" else "a",
            "type": kind,
            "from_name": names[kind],
            "value": value,
            **shared,
        }
        for kind, value in values.items()
    ]
    data = {"image": f"/data/local-files/?d=images/a_{image_id('a.jpg')}.jpg"}
    done = {"id": 4, "result": results, "was_cancelled": False, "updated_at": "2026-11-27T10:00:00Z"}
    return [[{"data": data, "annotations": [done]}], [{"data": data, "annotations": [{**done, "was_cancelled": True}]}]]


def prepare_studio(folder: Path) -> Read:
    """Return what reads an export of Label Studio, and its regions beside a mask of the image."""
    masks = [str(rle(box_mask((4, 3, 20, 9), SIZE))["counts"])]

    def read(data: bytes) -> None:
        for annotation in label_studio.read_tasks(data, "project.json").values():
            regions, _ = label_studio.read_regions(annotation, SIZE, Counter(), where="project.json")
            ious(masks, [region.counts for region in regions], SIZE)

    return read


def prepare_human(name: str) -> Callable[[Path], Read]:
    """Return what reads the references that join an export, after the file `name` of two sound ones was replaced."""

    def prepare(folder: Path) -> Read:
        (folder / "refs.p").write_bytes(_pickled(refer_trees()[0]))
        (folder / "instances.json").write_bytes(INSTANCES)
        human = HumanAnnotation(str(folder / "refs.p"), str(folder / "instances.json"), splits=SPLITS)

        def read(data: bytes) -> None:
            (folder / name).write_bytes(data)
            found = read_human(human)
            assert found.free_category_id not in [each["id"] for each in found.categories]
            assert found.exclusions
            list(found.renumbered({old: n for n, old in enumerate(found.images)}))

        return read

    return prepare


# A run of someone else.


@cache
def run_files() -> dict[str, bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        location = RunLocation.open(folder)
        commit(location, start_run(location, make_entries(2, 4)), 0, 1)
        write_manifest(location)
        return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def _one(start: str) -> str:
    return min(path for path in run_files() if path.startswith(start))


def prepare_run(start: str) -> Callable[[Path], Read]:
    """Return what opens a finished run after its file that begins with `start` was replaced."""

    def prepare(folder: Path) -> Read:
        write_files(folder, run_files())
        location, path = RunLocation.open(str(folder)), folder / _one(start)

        def read(data: bytes) -> None:
            path.write_bytes(data)
            header = require_header(location)
            _each(
                lambda: verify_run(location),
                lambda: list(latest_receipts(location)),
                lambda: list(cached_receipts(location)),
                lambda: read_manifest(location, manifest_numbers(location)[-1]),
                lambda: list(iter_plan(location, header)),
                lambda: list(stream_plan(location, header.plan_parts)),
                lambda: Run(location).counts,
                lambda: Run(location).sample(5),
            )

        return read

    return prepare


def _json_of(start: str) -> Target:
    # Not now: the run would be written whenever tests are collected.
    def vary(draw: Random, seeds: Sequence[bytes]) -> bytes:
        return of_trees([json.loads(seed) for seed in seeds], _written)(draw, seeds)

    return Target(lambda: [run_files()[_one(start)]], prepare_run(start), vary)


# The user's own files, which may come from elsewhere.


YAML = """\
preset: tiny
masks: &m {points_per_side: 8}   # a comment
source:
  extensions: [.png, '.jpg', ".tif"]
  uri_root: >-
    /a
shards: {max_images: 0x1F}
"""


def config_trees() -> list[Any]:
    return [load_config("tiny").model_dump(mode="json"), {"masks": {"points_per_side": 8}, "shards": {"max_images": 4}}]


def _as_yaml(tree: Any) -> bytes:
    # An alias wherever a part occurs twice.
    return yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")


def vary_config(draw: Random, seeds: Sequence[bytes]) -> bytes:
    """Return a damaged configuration, one in ten with aliases of aliases."""
    if draw.random() < 0.9:
        return of_trees(config_trees(), _as_yaml)(draw, seeds)
    fan, levels = draw.choice((2, 9)), draw.choice((3, 8, 60))
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * fan)}]" for n in range(levels)]
    return mutated(draw, ["\n".join(lines).encode(), *seeds]) if draw.random() < 0.3 else "\n".join(lines).encode()


def prepare_config(folder: Path) -> Read:
    path = folder / "config.yaml"

    def read(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        with suppress(ConfigError):
            load_config("tiny", None, [text])
        with suppress(ConfigError):
            load_config("tiny", None, [f"masks.points_per_side={text}"])
        path.write_bytes(data)
        config_hash(load_config("tiny", path))

    return read


def _tensors() -> dict[str, Any]:
    import torch

    return {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}


@cache
def checkpoint_seeds() -> list[bytes]:
    """Return checkpoints of torch: a training's, a state dict, one within another, and the form before 1.6."""
    import torch

    trained = {"module": _tensors(), "settings": json.dumps({"learner": "student"}), "step": 3, "more": [1, (2.5, "a")]}
    new = [_saved(each) for each in (trained, _tensors(), {"state_dict": _tensors(), "module": {}})]
    half = {"weight": torch.ones(3, 2).half(), "token_ids": torch.arange(3), "bias": torch.zeros(3)}
    return [*new, _saved(half), _saved(trained, _use_new_zipfile_serialization=False)]


def _saved(value: Any, **options: Any) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def vary_checkpoint(draw: Random, seeds: Sequence[bytes]) -> bytes:
    """Return a damaged checkpoint; mostly one member of its archive, which is written anew with sound checksums."""
    data = draw.choice(seeds)
    if draw.random() < 0.3 or not zipfile.is_zipfile(io.BytesIO(data)):
        return mutated(draw, seeds)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    chosen = draw.choice([name for name in members if draw.random() < 0.5 or name.endswith(".pkl")])
    members[chosen] = mutated(draw, [members[chosen], members[chosen], *members.values()])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return buffer.getvalue()


def prepare_checkpoints(suffix: str) -> Callable[[Path], Read]:
    """Return what reads a file of weights, as that of a model and as that of a training."""

    def prepare(folder: Path) -> Read:
        from torch import nn

        from pseudoris.schemas.config import WeightsConfig
        from pseudoris.training.learning.checkpoint_folder import load_checkpoint, read_settings
        from pseudoris.workers.checkpoints.tensor_files import load_into
        from pseudoris.workers.checkpoints.weight_headers import check_weight_header

        path = folder / f"checkpoint{suffix}"
        weights, module = WeightsConfig(uri=str(path)), nn.Linear(2, 3)

        def read(data: bytes) -> None:
            path.write_bytes(data)
            _each(
                lambda: load_into(module, weights),
                lambda: load_checkpoint(path),
                lambda: read_settings(path),
                lambda: check_weight_header(path, "weights"),
            )

        return read

    return prepare


@cache
def safetensors_seeds() -> list[bytes]:
    from safetensors.torch import save

    return [
        save(_tensors()),
        save(_tensors(), {"format": "pt"}),
        save({name: each.half() for name, each in _tensors().items()}),
    ]


def _each(*looks: Callable[[], object]) -> None:
    """Take every look; raise the last of the project's errors if no look succeeds."""
    raised: list[PseudorisError] = []
    for look in looks:
        try:
            look()
        except PseudorisError as error:
            raised.append(error)
    if len(raised) == len(looks):
        raise raised[-1]


def _of(trees: Callable[[], list[Any]], prepare: Callable[[Path], Read], write: Callable[[Any], bytes]) -> Target:
    return Target(lambda: [write(each) for each in trees()], prepare, of_trees(trees(), write))


def _bytes_of(start: str) -> Target:
    return Target(lambda: [run_files()[_one(start)]], prepare_run(start))


TARGETS = {
    "images": Target(image_seeds, prepare_images, vary_image),
    "tar": Target(tar_seeds, prepare_source("x.tar"), vary_tar),
    "parquet": Target(table_seeds, prepare_source("x.parquet"), vary_table),
    "coco": _of(coco_trees, prepare_annotation(parse_coco), _written),
    "refer": Target(
        lambda: [pickle.dumps(each, n) for each in refer_trees() for n in (0, 2, 4)],
        prepare_annotation(lambda data: read_refer(data, INSTANCES, refs_name="refs(unc).p", splits=SPLITS)),
        of_trees(refer_trees(), _pickled),
    ),
    "gref": _of(
        gref_trees,
        prepare_annotation(lambda data: read_gref(data, INSTANCES, refs_name="grefs(unc).json", splits=SPLITS)),
        _written,
    ),
    "reason": _of(reason_trees, prepare_annotation(lambda data: read_reason({"train/a.json": data})), _written),
    "studio": _of(studio_trees, prepare_studio, _written),
    "human": Target(lambda: [INSTANCES], prepare_human("instances.json"), of_trees(coco_trees()[:1], _written)),
    "human refs": Target(
        lambda: [_pickled(each) for each in refer_trees()[:1]],
        prepare_human("refs.p"),
        of_trees(refer_trees(), _pickled),
    ),
    "header": _json_of("_run.json"),
    "receipt": _json_of("_receipts/"),
    "manifest": _bytes_of("_manifest/"),
    "plan": _bytes_of("_plan/"),
    "config": Target(lambda: [YAML.encode(), *map(_as_yaml, config_trees())], prepare_config, vary_config),
    "checkpoint": Target(checkpoint_seeds, prepare_checkpoints(".pt"), vary_checkpoint),
    "safetensors": Target(safetensors_seeds, prepare_checkpoints(".safetensors")),
}
