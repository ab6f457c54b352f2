"""The same annotated images in three forms: a run with embedded images, files in the CRIS layout, an LMDB of records.

    FOLDER/run/…                         a run; `kept` is true of some of each mask's candidates
    FOLDER/cris/images/train2014/*.jpg   masks/run/<segment id>.png   anns/run/train.json
    FOLDER/cris/lmdb/run/train.lmdb      pickled records {img, mask, cat, seg_id, img_name, num_sents, sents}

The layouts are those that CRIS and ETRIS train from; what is in them is equal: `dataset` times nothing else. `exports`
takes `start_run`.
"""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import lmdb
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.io import ImageReadMode, decode_jpeg, decode_png, read_file

from pseudoris.files.location import RunLocation
from pseudoris.interchange.dataset.sample_spec import RisSample
from pseudoris.primitives.counter_rng import draw_texts
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import config_hash, load_config
from pseudoris.schemas.ids import image_id, mask_id, sha256_hex
from pseudoris.schemas.run_records import Identity, PlanEntry, RunHeader
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord, MaskRecord, Shard, ShardImage
from pseudoris.store.runs.commit import Provenance, commit_shard
from pseudoris.store.runs.header import create_header
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.store.runs.plan import read_shard_plan, write_plan

HEIGHT: Final = 480
WIDTH: Final = 640
# Of photographs as COCO has them: about 100 kB an image of this size.
_JPEG_QUALITY: Final = 90
_LMDB_BYTES: Final = 2**36
_WORDS: Final = (
    *("red", "small", "left", "dog", "on", "the", "table"),
    *("with", "a", "round", "shirt", "man", "blue", "car"),
)


@dataclass(frozen=True, slots=True)
class DataSize:
    """How much of it; of each mask's candidates the first `kept` are kept."""

    images: int
    masks: int
    kept: int = 5
    candidates: int = 20
    shard_images: int = 32


def write_all(folder: Path, size: DataSize, photographs: Path | None) -> None:
    """Write all three forms into an empty folder; equal arguments give equal content."""
    location = RunLocation.open(str(folder / "run"))
    cris = folder / "cris"
    for part in ("images/train2014", "masks/run", "anns/run", "lmdb/run"):
        (cris / part).mkdir(parents=True)
    header = _start(location, size)
    refs: list[dict[str, Any]] = []
    environment = lmdb.open(str(cris / "lmdb/run/train.lmdb"), subdir=False, map_size=_LMDB_BYTES)
    jpegs = _jpegs(photographs, size.images)
    for number in range(header.num_shards):
        entries = read_shard_plan(location, header, number)
        images = tuple(_annotated(entry, next(jpegs), size) for entry in entries)
        shard = Shard(number, 0, images)
        ids = [entry.image_id for entry in entries]
        provenance = Provenance(header_sha256=header.sha256)
        commit_shard(location, shard, planned_ids=ids, embed_images=True, provenance=provenance)
        for image in images:
            _write_cris(cris, image, refs, environment)
    keys = [str(number).encode() for number in range(len(refs))]
    with environment.begin(write=True) as transaction:
        transaction.put(b"__keys__", pickle.dumps(keys, protocol=4))
        transaction.put(b"__len__", pickle.dumps(len(keys), protocol=4))
    environment.close()
    (cris / "anns/run/train.json").write_text(json.dumps(refs), encoding="utf-8")
    write_manifest(location)


def _start(location: RunLocation, size: DataSize) -> RunHeader:
    config = load_config("base", None, ["shards.embed_images=true", f"shards.max_images={size.shard_images}"])
    keys = [f"{number:012d}.jpg" for number in range(size.images)]
    entries = [
        PlanEntry(number // size.shard_images, number % size.shard_images, image_id(key), key)
        for number, key in enumerate(keys)
    ]
    return start_run(location, "photographs", entries, config)


def start_run(location: RunLocation, source: str, entries: Sequence[PlanEntry], config: RunConfig) -> RunHeader:
    """Write the plan and the header of a run whose shards are written by hand: no model computes, no clock is read."""
    header = RunHeader(
        source=source,
        created_utc="2026-01-01T00:00:00Z",
        plan_parts=write_plan(location, entries),
        num_images=len(entries),
        num_repeated=0,
        num_shards=entries[-1].shard + 1,
        identity=Identity(method=config.method(), weights={}, device_kind="none", versions={}),
        config=config,
        config_sha256=config_hash(config),
    )
    return create_header(location, header)


def _jpegs(photographs: Path | None, num_images: int) -> Iterator[bytes]:
    """Yield different JPEGs of one size: photographs, mirrored and shifted, or texture where none are given."""
    pictures = [_fitted(path) for path in sorted(photographs.glob("*.jpg"))] if photographs else []
    for number in range(num_images):
        generator = np.random.default_rng(number)
        if pictures:
            pixels = pictures[number % len(pictures)][:, :: 1 if number % 2 else -1]
            pixels = np.roll(pixels, generator.integers(0, WIDTH), axis=1)
        else:
            coarse = generator.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8)
            smooth = np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
            pixels = np.clip(smooth + generator.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
        target = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(target, "JPEG", quality=_JPEG_QUALITY)
        yield target.getvalue()


def _fitted(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS))


def _annotated(entry: PlanEntry, data: bytes, size: DataSize) -> ShardImage:
    generator = np.random.default_rng(int(entry.image_id, 16))
    masks = tuple(_mask(entry.image_id, index, generator) for index in range(size.masks))
    return ShardImage(
        entry.position,
        entry.image_id,
        entry.key,
        data,
        sha256=sha256_hex(data),
        height=HEIGHT,
        width=WIDTH,
        masks=masks,
        expressions=tuple(each for mask in masks for each in _expressions(mask.mask_id, size, generator)),
    )


def _mask(image: str, index: int, generator: np.random.Generator) -> MaskRecord:
    """Return a blob with a ragged outline, a twentieth to a third of the image wide."""
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    y, x = generator.uniform(0.2, 0.8, 2) * (HEIGHT, WIDTH)
    radius = generator.uniform(0.03, 0.17) * WIDTH
    angle = np.arctan2(rows - y, columns - x)
    waves = sum(generator.uniform(0, 0.12) * np.sin(k * angle + generator.uniform(0, 6)) for k in (2, 3, 5, 9, 17))
    inside = np.hypot(rows - y, columns - x) < radius * (1 + waves)
    code = coco.encode(np.asfortranarray(inside.astype(np.uint8)))
    left, top, width, height = (int(side) for side in coco.toBbox(code))
    box = (left, top, left + width, top + height)
    counts = code["counts"].decode("ascii")
    return MaskRecord(mask_id(image, index), index, (HEIGHT, WIDTH), counts, box, int(inside.sum()), 0.9, 0.95)


def _expressions(target: str, size: DataSize, generator: np.random.Generator) -> Iterator[ExpressionRecord]:
    for number in range(size.candidates):
        words = generator.choice(_WORDS, generator.integers(3, 9))
        score = float(generator.uniform(1, 2) if number < size.kept else generator.uniform(0.5, 1))
        yield ExpressionRecord(
            (target,),
            f"{' '.join(words)} {number}",
            (CaptionSample("masked", "top_k", 5, None, float(generator.normal(-9, 3)), "all", 19),),
            head_noun=str(words[-1]),
            uniqueness=score,
            correctness=float(generator.uniform(0.1, 0.3)),
            distinctiveness=score,
            rival_mask_id=target,
            kept=number < size.kept,
        )


def _write_cris(cris: Path, image: ShardImage, refs: list[dict[str, Any]], environment: Any) -> None:
    name = image.key
    (cris / "images/train2014" / name).write_bytes(image.data)
    for mask in image.masks:
        texts = [each.text for each in image.expressions if each.kept and each.target_mask_ids == (mask.mask_id,)]
        png = _png(mask)
        number = len(refs)
        (cris / "masks/run" / f"{number}.png").write_bytes(png)
        refs.append(_ref(mask, number, name, texts))
        record = {"img": image.data, "mask": png, "cat": 0, "seg_id": number, "img_name": name}
        record |= {"num_sents": len(texts), "sents": texts, "mask_id": mask.mask_id}
        with environment.begin(write=True) as transaction:
            transaction.put(str(number).encode(), pickle.dumps(record, protocol=4))


def _png(mask: MaskRecord) -> bytes:
    pixels = coco.decode({"size": list(mask.rle_size), "counts": mask.rle_counts.encode()}) * 255
    target = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(target, "PNG")
    return target.getvalue()


def _ref(mask: MaskRecord, number: int, name: str, texts: Sequence[str]) -> dict[str, Any]:
    return {
        "bbox": list(mask.box_xyxy_px),
        "cat": 0,
        "segment_id": number,
        "img_name": name,
        # Beside the layout: all sides draw by it, so that their samples can be compared.
        "mask_id": mask.mask_id,
        "sentences": [{"idx": at, "sent_id": at, "sent": text} for at, text in enumerate(texts)],
        "sentences_num": len(texts),
    }


class CrisFiles(Dataset[RisSample]):
    """JPEG files, a PNG a mask, and a JSON list of refs: one item a ref, one of its sentences drawn."""

    def __init__(self, cris: Path) -> None:
        """Read the list."""
        self._images, self._masks = cris / "images/train2014", cris / "masks/run"
        self._refs = json.loads((cris / "anns/run/train.json").read_text(encoding="utf-8"))
        self.bytes_read = 0

    def __len__(self) -> int:
        """Return the number of refs."""
        return len(self._refs)

    def __getitem__(self, index: int) -> RisSample:
        """Return the same sample as the run's dataset gives for that mask."""
        ref = self._refs[index]
        image, mask = self._images / ref["img_name"], self._masks / f"{ref['segment_id']}.png"
        self.bytes_read += image.stat().st_size + mask.stat().st_size
        texts = [sentence["sent"] for sentence in ref["sentences"]]
        return _sample(ref["mask_id"], read_file(os.fspath(image)), read_file(os.fspath(mask)), texts)


class CrisLmdb(Dataset[RisSample]):
    """An LMDB of pickled records, opened as CRIS opens it, in the process that reads."""

    def __init__(self, cris: Path) -> None:
        """Read its length."""
        self._path = cris / "lmdb/run/train.lmdb"
        self._environment: Any = None
        self.bytes_read = 0
        with self._open().begin() as transaction:
            self._length = pickle.loads(transaction.get(b"__len__"))
        self._environment = None

    def __len__(self) -> int:
        """Return the number of records."""
        return int(self._length)

    def __getitem__(self, index: int) -> RisSample:
        """Return the same sample as the run's dataset gives for that mask."""
        if self._environment is None:
            self._environment = self._open()
        with self._environment.begin(buffers=True) as transaction:
            value = transaction.get(str(index).encode())
            self.bytes_read += len(value)
            record = pickle.loads(value)
        return _sample(record["mask_id"], _tensor(record["img"]), _tensor(record["mask"]), record["sents"])

    def _open(self) -> Any:
        return lmdb.open(os.fspath(self._path), subdir=False, readonly=True, lock=False, readahead=False, meminit=False)


def _sample(mask_id: str, jpeg: Tensor, png: Tensor, texts: list[str]) -> RisSample:
    (drawn,) = draw_texts(texts, 1, seed=0, epoch=0, mask_id=mask_id)
    return RisSample(
        mask_id=mask_id,
        image=decode_jpeg(jpeg, mode=ImageReadMode.RGB),
        mask=decode_png(png, mode=ImageReadMode.GRAY)[0] == 255,
        expressions=[texts[drawn]],
    )


def _tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
