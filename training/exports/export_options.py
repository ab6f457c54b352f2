"""Options of the export formats, with their help and bounds as `cli/export.py` shows them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pseudoris.training.human_refs import HumanAnnotation


def _option(default: Any, text: str, **bounds: float) -> Any:
    return field(default=default, metadata={"help": text, **bounds})


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """Options of formats, with their help and bounds as the command line gives them; `ExportFormat.reads` names whose.

    Attributes:
        human: Human annotation to merge; None for none.
    """

    max_tokens: int | None = _option(
        None,
        "Leave out expressions with more CLIP tokens, start and end included. 0 keeps all. Default: the limit of the "
        "format's trainers.",
        min=0,
    )
    dataset: str | None = _option(None, "Dataset name that the trainer asks for.")
    split: str = _option("train", "Name of the split that the run is written as.")
    split_by: str = _option("pseudo", "refer: name in the brackets of refs(<split-by>).p.")
    human: HumanAnnotation | None = None
    target_mb: float = _option(
        256, "Size of a file in MB (parquet, hf, webdataset). 128 to 512 suits most readers.", min=1, max=4_096
    )
    distinctive_only: bool = _option(
        False,
        "pseudo-ris-csv: leave out masks without a candidate above tau. Of such a mask the authors' trainer draws any "
        "candidate.",
    )
    masks: str | None = _option(
        None, "refer: form of the masks: polygon (one each, which pycocotools fills exactly), or rle."
    )
    layout: str | None = _option(
        None, "hf: masks (a list of structs), or objects (a struct of lists, as detectors read)."
    )
    license: str | None = _option(None, "hf: licence of the images, as the Hub names it: cc-by-4.0, other, …")
    coordinates: str | None = _option(None, "llamafactory, qwen: frame of the boxes: norm1000, real, or resized.")
    resize_factor: int | None = _option(None, "--coordinates resized: multiple of the sides, 28 or 32.", min=1)
    min_pixels: int | None = _option(None, "--coordinates resized: smallest area that the trainer is given.", min=1)
    max_pixels: int | None = _option(None, "--coordinates resized: largest area that the trainer is given.", min=1)
    rewording: int = _option(
        0, 'All but label-studio: up to N other forms of each expression, and no "a photo of".', min=0, max=10
    )
    any_targets: bool = _option(
        False, "odvg: also expressions of several objects and of none, which Open-GroundingDINO misreads."
    )

    @property
    def target_bytes(self) -> int:
        """Size that files should have, where the format has files of a free size."""
        return int(self.target_mb * 10**6)
