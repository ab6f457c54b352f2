"""Trained weights in the form that the package ships: safetensors, half precision, used vocabulary rows only, digests.

`python -m evidence.recipes.shipped_weights OUT` copies the weights files of OUT into the package and records their
digests. The presets get those of a run's models, so that each run verifies its files. The model card gets all of
them. Without OUT only the digests and the card are updated.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import torch
import typer
from safetensors.torch import load_file, save_file

from evidence.recipes.caption_vocabulary import CompactVocabulary
from pseudoris.workers.checkpoints.tensor_files import TOKEN_IDS

DESCRIPTIONS: Final = {
    "sam": "mask proposals: SAM with a ViT of 4 blocks, 192 px",
    "coca": "captions: CoCa, 4 + 1 + 2 layers, 96 px",
    "clip": "scores: CLIP, 4 + 2 layers, 96 px",
    "scene_clip": "frozen towers of learners: CLIP, 5 + 2 layers, whole scenes of 192 px",
    "sam_prompts": "masks from several points: the same SAM, its prompt encoder and mask decoder trained on",
    "coca_longer": "captions of `tiny-composed`: the same CoCa, trained for longer",
}
# By preset. No stage of a run uses the others: only the card has their digests.
_PRESET_MODELS: Final = {"tiny": ("sam", "coca", "clip"), "tiny-composed": ("coca_longer",)}
ROOT: Final = Path(__file__).parents[2]
_CARD_HEAD: Final = "| --- | --- | --: | --: | --- |\n"


def shipped_state(
    state: Mapping[str, torch.Tensor], vocabulary: CompactVocabulary | None = None
) -> dict[str, torch.Tensor]:
    """Return a state in float16, with the ids of a compact vocabulary where the model has one.

    Raises:
        ValueError: a weight is not finite in float16.
    """
    shipped = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in state.items()}
    broken = [name for name, tensor in shipped.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise ValueError(
            f"{len(broken)} tensors are not finite in float16, the first are {broken[:3]}. Lower the peak rate."
        )
    if vocabulary is not None:
        shipped[TOKEN_IDS] = torch.tensor(vocabulary.ids, dtype=torch.int64)
    return shipped


def write_weights(path: Path, state: Mapping[str, torch.Tensor]) -> str:
    """Writes a safetensors file whole and returns its sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    save_file(dict(sorted(state.items())), unfinished)
    unfinished.rename(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def ship(out: Path | None, root: Path = ROOT) -> None:
    """Copies the weights files of `out` into the tree at `root`, and updates presets and model card.

    Raises:
        FileNotFoundError: a weights file is missing; nothing was changed.
        ValueError: a preset or the card no longer has a place for the digests.
    """
    folder = root / "workers" / "checkpoints" / "tiny"
    if out is not None:
        for source in [(out / f"{model}.safetensors").resolve(strict=True) for model in DESCRIPTIONS]:
            shutil.copyfile(source, folder / source.name)
    card = folder / "MODEL_CARD.md"
    files = {model: folder / f"{model}.safetensors" for model in DESCRIPTIONS}
    renewed = {card: with_card_rows(card.read_text(encoding="utf-8"), list(files.values()))}
    for name, models in _PRESET_MODELS.items():
        preset = root / "schemas" / "presets" / f"{name}.yaml"
        own = [files[model] for model in models]
        renewed[preset] = with_preset_digests(preset.read_text(encoding="utf-8"), own)
    for path, text in renewed.items():
        path.write_text(text, encoding="utf-8")


def with_preset_digests(text: str, files: list[Path]) -> str:
    """Return the preset's YAML with the sha256 of each file below its uri.

    Raises:
        ValueError: a file is not named there.
    """
    for file in files:
        place = rf'( +)uri: "builtin:tiny/{re.escape(file.name)}"\n\1sha256: "[0-9a-f]{{64}}"\n'
        said = rf'\1uri: "builtin:tiny/{file.name}"\n\1sha256: "{_digest(file)}"\n'
        text, count = re.subn(place, said, text)
        if count != 1:
            raise ValueError(
                f"The preset has {count} places for the sha256 of {file.name}. It must have one, below its uri."
            )
    return text


def with_card_rows(text: str, files: list[Path]) -> str:
    """Return the model card with a row for each file: name, sha256, bytes, parameters, description.

    Raises:
        ValueError: the card has no table for them.
    """
    before, head, after = text.partition(_CARD_HEAD)
    if not head:
        raise ValueError(f"the model card has no table of files: no line {_CARD_HEAD.strip()!r}")
    _, blank, rest = after.partition("\n\n")
    return before + head + "\n".join(_card_row(file) for file in files) + blank + rest


def _card_row(file: Path) -> str:
    tensors = load_file(file)
    parameters = sum(tensor.numel() for name, tensor in tensors.items() if name != TOKEN_IDS)
    size = file.stat().st_size
    return f"| `{file.name}` | `{_digest(file)}` | {size:,} | {parameters:,} | {DESCRIPTIONS[file.stem]} |"


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def main(
    out: Annotated[Path | None, typer.Argument(help="Folder of the weights files.")] = None,
) -> None:
    """Ships the weights of OUT, or renews digests and card of those in the package."""
    ship(out)


if __name__ == "__main__":
    typer.run(main)
