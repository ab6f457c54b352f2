"""The reader of a `datasets` folder: `load_dataset` itself, with nothing but the folder, offline."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest


def open_folder(root: Path, cache: Path | None = None):
    """Return the one split of the folder; without `cache` it is read with a temporary folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        # Read when the package is imported, and asked for again later.
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        import datasets

        datasets.disable_progress_bars()
        found = datasets.load_dataset(str(root), cache_dir=str(cache or tempfile.mkdtemp(dir=root.parent)))
    (split,) = found.values()
    return split
