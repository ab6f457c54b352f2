"""Files of fitted values, as `filtering.fitted.uri` names them."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.fitted import PosteriorConfig

# That of `tiny`, of how often captions were drawn.
POSTERIOR: PosteriorConfig = load_config("tiny").filtering.fitted.values.posterior
# Of this process: another one may write or delete the same file.
_FOLDER = tempfile.TemporaryDirectory(prefix="pseudoris-fitted-")


def fitted_file(**values: Any) -> Path:
    """Return a file with these values; equal ones have one file."""
    text = json.dumps(values)
    path = Path(_FOLDER.name) / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.fitted.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def fitted(**values: Any) -> str:
    """Return the `--set` word that names a file with these values."""
    return f"filtering.fitted={{uri: {fitted_file(**values)}}}"
