"""Reads tensors from a local file (safetensors, checkpoints of torch) and loads them into modules, with torch.

Called by `openclip.py`, `masks`, `training`, `evidence/recipes`. Checkpoints are pickles: code in one must be refused.

A tensor `token_ids` marks a compact vocabulary. The tiny models know a few dozen of open_clip's 49,408 BPE tokens, and
their files hold those rows alone; loading scatters the rows into tables of zeros. An unused token then has an embedding
and a logit of exactly zero, which is how the models were trained.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any, Final, TypeVar

import torch
from safetensors.torch import load_file
from torch import nn
from torch.overrides import TorchFunctionMode

from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import open_linked
from pseudoris.schemas.config import WeightsConfig
from pseudoris.workers.checkpoints.weight_cache import random_seed
from pseudoris.workers.checkpoints.weight_files import local_file, verified_digest
from pseudoris.workers.checkpoints.weight_headers import check_header, more_than_tensors

# Matches the name in torch's refusals: `unsupported GLOBAL posix.system`, `GLOBAL numpy.dtype was not allowed`.
_REFUSED: Final = re.compile(r"GLOBAL ([\w.]+)")
_ARCHIVE: Final = b"PK\x03\x04"
_SHOWN_LETTERS: Final = 500
_SHOWN_KEYS: Final = 4
# Older files store these buffers and settings. They are left out, because newer modules compute them.
_COMPUTED: Final = frozenset(
    ["attn_mask", "text.attn_mask", "text_decoder.attn_mask", "input_resolution", "context_length", "vocab_size"]
)
# Initialisation draws with these; `fill_` and the like stay, because masks of attention are made with them.
_RANDOM_FILLS: Final = (
    *(nn.init.kaiming_uniform_, nn.init.normal_, nn.init.uniform_),
    *(torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.erfinv_),
)
TOKEN_IDS = "token_ids"
FULL_VOCABULARY = 49408
# Maps the end of a table's name to the dimension that has one entry per token.
_TOKEN_DIMENSION: dict[str, int] = {"token_embedding.weight": 0, "text_decoder.text_projection": 1}
ModuleT = TypeVar("ModuleT", bound=nn.Module)


def load_module(build: Callable[[], ModuleT], weights: WeightsConfig) -> ModuleT:
    """Return what `build` makes, in eval mode, with its weights; `random:<seed>` leaves torch's own generator alone."""
    seed = random_seed(weights)
    with torch.random.fork_rng(devices=[]), _RandomFillsSkipped() if seed is None else nullcontext():
        torch.manual_seed(seed or 0)
        module = build()
    if seed is None:
        load_into(module, weights)
    return module.eval()


class _RandomFillsSkipped(TorchFunctionMode):
    """Leaves parameters as they were allocated: all are loaded next, and drawing those of ViT-H takes two seconds."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if function in _RANDOM_FILLS:
            return args[0] if args else named["tensor"]
        return function(*args, **named)


def load_into(module: nn.Module, weights: WeightsConfig) -> None:
    """Load a weights file of the right digest into a module. The tensors of both must match exactly."""
    path = local_file(weights)
    verified_digest(weights, path)
    state = expand_vocabulary(read_state(path, f"weights '{weights.uri}'"), where=weights.uri)
    own = module.state_dict()
    # A trainer may put `model.` before every name. It is removed if the module has no part of that name.
    if all(key.startswith("model.") for key in state) and not any(key.startswith("model.") for key in own):
        state = {key.removeprefix("model."): value for key, value in state.items()}
    # CoCa and custom-text models keep CLIP's text tower under `text`, so its tensors are renamed as in open_clip.
    if "positional_embedding" in state and "positional_embedding" not in own and "text.positional_embedding" in own:
        parts = ("text_projection", "positional_embedding", "token_embedding", "transformer", "ln_final", "attn_mask")
        state = {f"text.{key}" if key.startswith(parts) else key: value for key, value in state.items()}
    state = {key: value for key, value in state.items() if key in own or key not in _COMPUTED}
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)
    if missing or extra or shapes:
        raise ConfigError(
            f"weights '{weights.uri}' do not fit the architecture: {len(missing)} tensors missing "
            f"{missing[:_SHOWN_KEYS]}, {len(extra)} unknown {extra[:_SHOWN_KEYS]}, "
            f"{len(shapes)} of another shape {shapes[:_SHOWN_KEYS]}; give the architecture of these weights"
        )
    module.load_state_dict(state)


def read_state(file: Path | IO[bytes], what: str) -> dict[str, torch.Tensor]:
    """Return tensors by name, as `load_tensors` reads them; `what` names the file in a ConfigError."""
    try:
        state = load_tensors(file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{what} cannot be read as tensors: {error}") from error
    # Trainers store weights beside the optimiser: open_clip under `state_dict`, others under `model`.
    for nested in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(nested), dict):
            state = state[nested]
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise ConfigError(f"{what} is no table of tensors: give a state dict")
    return {key.removeprefix("module."): value for key, value in state.items()}


def load_tensors(file: Path | IO[bytes]) -> Any:
    """Return what a file holds, on the CPU: the tensors of a `.safetensors`, or what a checkpoint of torch holds.

    A ValueError, whose message is for the user, says that it is no such file, or holds more than tensors and plain
    values. A ConfigError says that it is a pipe or a device.
    """
    if not isinstance(file, Path):
        with NamedTemporaryFile() as local:
            shutil.copyfileobj(file, local)
            local.flush()
            return load_tensors(Path(local.name))
    check_header(file)
    try:
        with _BoundedFile(open_linked(file).detach()) as bounded:
            if file.suffix == ".safetensors":
                return load_file(file)
            # torch reads an archive fastest by its path, and checks the bounds of the archive's members itself.
            plain = file if bounded.peek(4)[:4] == _ARCHIVE else bounded
            return torch.load(plain, map_location="cpu", weights_only=True)
    except (MemoryError, OSError, ConfigError):
        raise
    except pickle.UnpicklingError as error:
        # torch's own text is not shown: it advises to load the file in a way that runs its code.
        refused = _REFUSED.search(str(error))
        raise ValueError(more_than_tensors(refused[1] if refused else "")) from None
    except Exception as error:  # noqa: BLE001  # on hostile bytes the unpickler may raise any type
        raise ValueError(f"{type(error).__name__}: {error}"[:_SHOWN_LETTERS]) from None


class _BoundedFile(io.BufferedReader):
    """A file that reads at most its own size at once: a read takes its memory before it knows whether bytes exist."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(size if size is None else min(size, os.fstat(self.fileno()).st_size))


def expand_vocabulary(state: Mapping[str, torch.Tensor], *, where: str) -> dict[str, torch.Tensor]:
    """Return the state with full token tables, zeros where the file has no row, and half precision as float32.

    Only a state with `token_ids` has tables to fill. Integers and wider floats stay.
    """
    full = {
        name: tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
        for name, tensor in state.items()
        if name != TOKEN_IDS
    }
    if TOKEN_IDS not in state:
        return full
    ids = state[TOKEN_IDS].to(torch.int64)
    if ids.ndim != 1 or len(set(ids.tolist())) != len(ids) or not bool(((ids >= 0) & (ids < FULL_VOCABULARY)).all()):
        raise ConfigError(f"weights '{where}': token_ids must be distinct numbers in [0, {FULL_VOCABULARY})")
    for name, tensor in full.items():
        dimension = next((dim for ending, dim in _TOKEN_DIMENSION.items() if name.endswith(ending)), None)
        if dimension is None:
            continue
        if tensor.shape[dimension] != len(ids):
            raise ConfigError(
                f"weights '{where}': {name} has {tensor.shape[dimension]} tokens and token_ids {len(ids)}: the file is "
                "damaged"
            )
        shape = list(tensor.shape)
        shape[dimension] = FULL_VOCABULARY
        # Rows are copied in place, because `index_copy` would make the table twice, 25 MB each for `tiny`.
        full[name] = torch.zeros(shape, dtype=tensor.dtype).index_copy_(dimension, ids, tensor)
    return full
