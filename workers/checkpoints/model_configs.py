"""Reads the model config of a CoCa or CLIP: the numbers that open_clip builds it from.

`openclip.py` offers it to engines, `training`, `evidence/recipes`; `stages.py` calls it for digests, so it must not
import torch. A config is untrusted: its numbers are bounded, because open_clip takes memory before it checks them.
"""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import parse_json
from pseudoris.primitives.uris import BUILTIN_PREFIX, values_in

# A config may have this many bytes, and numbers up to the second limit. open_clip's have 1 kB and up to 901,629.
_MAX_FILE_BYTES = 2**20
_MAX_NUMBER = 2**20


def read_model_config(architecture: str | None, *, is_captioner: bool | None = None) -> dict[str, Any]:
    """Return an open_clip model config, by registry name, JSON file, or `builtin:` file of this package.

    A captioner must be a CoCa, which has a decoder, and a scorer a CLIP, which has none; None takes both.
    """
    if architecture is None:
        raise ConfigError("no architecture is set: give the name of one, such as coca_ViT-L-14")
    if architecture.startswith(BUILTIN_PREFIX):
        text = files("pseudoris.workers.checkpoints").joinpath(architecture.removeprefix(BUILTIN_PREFIX))
        if not text.is_file():
            raise ConfigError(f"architecture '{architecture}': no such file is shipped in workers/checkpoints")
        config = _parse(text.read_text(encoding="utf-8"), architecture)
    elif architecture.endswith(".json"):
        path = Path(architecture)
        if not path.is_file():
            raise ConfigError(
                f"architecture '{architecture}': no such file; give the path of an open_clip model config"
            )
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ConfigError(
                f"architecture '{architecture}' is a file of {path.stat().st_size:,} bytes, a model config has at most "
                f"{_MAX_FILE_BYTES:,}: give the path of one"
            )
        config = _parse(path.read_text(encoding="utf-8", errors="replace"), architecture)
    else:
        # open_clip is not imported to find its folder, because that takes seconds.
        spec = find_spec("open_clip")
        folder = Path((spec and spec.origin) or "").parent / "model_configs"
        if f"{architecture}.json" not in (path.name for path in folder.glob("*.json")):
            raise ConfigError(
                f"architecture '{architecture}' is not in open_clip's registry: give one of open_clip.list_models(), "
                "such as coca_ViT-L-14 or RN50-quickgelu, or the path of a JSON model config"
            )
        config = _parse((folder / f"{architecture}.json").read_text(encoding="utf-8"), architecture)
    has_decoder = "multimodal_cfg" in config
    if is_captioner and not has_decoder:
        raise ConfigError(f"architecture '{architecture}' has no multimodal_cfg: a captioner must be a CoCa")
    if is_captioner is False and has_decoder:
        raise ConfigError(f"architecture '{architecture}' has multimodal_cfg, but a scorer must be a CLIP")
    return config


def _parse(text: str, architecture: str) -> dict[str, Any]:
    try:
        config = parse_json(text)
    except ValueError as error:
        raise ConfigError(f"architecture '{architecture}' is not JSON: {error}") from error
    if not isinstance(config, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys():
        raise ConfigError(
            f"architecture '{architecture}' is not an open_clip model config: "
            "it needs embed_dim, vision_cfg and text_cfg"
        )
    for key, number in values_in(config):
        if isinstance(number, int | float) and not abs(number) <= _MAX_NUMBER:
            raise ConfigError(
                f"architecture '{architecture}': {key} is {number}; the numbers of a model are at most {_MAX_NUMBER:,}"
            )
    return config
