from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.config_loading import load_config
from store.location import RunLocation
from training.imports import ImportRequest, ImportSummary, import_annotation


@pytest.fixture
def imported(tmp_path) -> Callable[..., ImportSummary]:
    """Import into `out` of the test's folder; `words` are `--set` words, `on_progress` may raise."""

    def run(annotation, images, *words: str, out: str | Path = "", on_progress=lambda done, total: None, **values):
        config = load_config("tiny", None, ["shards.max_images=2", *words])
        request = ImportRequest(str(annotation), str(images), config, **{"format": "refer", **values})
        location = RunLocation.open(str(out or tmp_path / "out"), config.source.endpoint_url, config.placement.storage)
        return import_annotation(request, location, on_progress=on_progress, on_wait=lambda text: None)

    return run
