"""The sha256 and perceptual hashes of a folder of images; tars and tables in it are read as SOURCE is."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pseudoris.images.perceptual_hash import require_imagehash
from pseudoris.images.prover import Prover
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError, ImageError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.store.runs.shard_assignment import assign_shards
from pseudoris.store.sources.exclusions import Exclusions
from pseudoris.store.sources.planned_images import read_entries
from pseudoris.store.sources.source import open_source
from pseudoris.training.exclusions.hash_table import hash_rules

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HashedImage:
    """An image's key relative to its folder, the sha256 of its bytes, and its hash; None if it does not decode."""

    key: str
    sha256: str
    phash: str | None


def read_image_folder(folder: Path, max_distance: int) -> Exclusions:
    """Return two rules: by sha256, and by perceptual hash.

    Raises:
        ConfigError: It holds no image that can be read, or the package imagehash is missing.
        TransientError: Storage failed.
    """
    images = list(hash_images(folder))
    values = {
        "sha256": {image.sha256 for image in images},
        "phash": {image.phash for image in images if image.phash is not None},
    }
    if not images:
        raise ConfigError(
            f"--exclude {folder}: none of its images can be read. Give the folder of a benchmark's images."
        )
    return hash_rules(folder.resolve().name, values, max_distance)


def hash_images(folder: Path) -> Iterator[HashedImage]:
    """Yield the images of a folder in the order of their keys; those that cannot be read are logged and left out.

    Raises:
        ConfigError: It does not exist or holds no image, or the package imagehash is missing.
        TransientError: Storage failed.
    """
    require_imagehash()
    config = load_config("tiny")
    source = open_source(str(folder), config.source)
    entries = assign_shards(source.list(), config.shards)
    with Prover(config.images, has_hash=True) as prover:
        for _, group in itertools.groupby(entries, key=lambda entry: entry.shard):
            shard = list(group)
            keys = {entry.position: entry.key for entry in shard}
            for position, outcome in read_entries(source.root, shard, config):
                if isinstance(outcome, ImageError):
                    logger.warning("%s is not excluded, it cannot be read: %s", keys[position], outcome)
                    continue
                yield HashedImage(keys[position], sha256_hex(outcome), _hash(prover, keys[position], outcome))


def _hash(prover: Prover, key: str, data: bytes) -> str | None:
    try:
        return str(prover.prove(data).phash)
    except ImageError as error:
        logger.warning("%s is excluded by its sha256 alone, it does not decode: %s", key, error)
        return None
