"""What the trainers of CRIS and ETRIS call a data set, and the numbers that their code holds of it."""

from __future__ import annotations

import re
from typing import Final

from schemas.errors import ConfigError
from training.exports.protocol import ExportRequest

DEFAULT_DATASET: Final = "refcoco"
# Their `info` table in utils/dataset.py knows these; for another name it is to be extended.
KNOWN_DATASETS: Final = ("refcoco", "refcoco+", "refcocog_u", "refcocog_g")
# Both cut at 17 CLIP tokens, start and end included (`word_len`).
WORD_LEN: Final = 17
IMAGES_FOLDER: Final = "images/train2014"
# Above every segment id of the human data sets (their ref_ids, below 150,000): the trainers look for human masks of
# val and test in the same folder.
FIRST_SEGMENT_ID: Final = 1_000_000
# Index of the 80 classes of COCO; no loss reads it, and a run knows no classes.
CATEGORY_INDEX: Final = 0
_NAME: Final = re.compile(r"[A-Za-z0-9_+-]+")


def checked_names(request: ExportRequest) -> tuple[str, str]:
    """Return (data set, split), both fit to be a file's name.

    Raises:
        ConfigError: One of them is not.
    """
    dataset, split = request.options.dataset or DEFAULT_DATASET, request.options.split
    for option, name in (("--dataset", dataset), ("--split", split)):
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{option} {name!r}: letters, digits, _, + and - only; it becomes a file's name")
    return dataset, split


def length_notes(dataset: str, split: str, num_records: int) -> list[str]:
    """Return what a user must tell the trainer: it trusts a table in its code, not the files, for their length."""
    table = f"info[{dataset!r}][{split!r}]"
    notes = [
        f"Put the number into the trainer's utils/dataset.py before training: {table} = {num_records}. A higher one "
        "ends in an IndexError, a lower one hides the rest.",
    ]
    if dataset not in KNOWN_DATASETS:
        notes.append(
            f"Its table does not know {dataset!r}, a KeyError: add info[{dataset!r}] = {{{split!r}: {num_records}}}."
        )
    return notes
