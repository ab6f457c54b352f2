"""Opens models and processors of `transformers` (the extra `pseudoris[hf]`) from a model folder.

Called by the engines that read folders, and by `pipeline` for a run's identity. `model_skeleton` and `check_fits` must
refuse before Ray starts what `load_model` would refuse in an actor. Nothing is downloaded, and no code of a model is
run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import psutil
import torch

from pseudoris.primitives.errors import ConfigError
from pseudoris.workers.checkpoints.model_folder import ATTENTION, ModelFolder, check_installed

_NUM_SHOWN: Final = 4


def model_skeleton(folder: ModelFolder, class_name: str) -> Any:
    """Return the folder's model without weights, on the device `meta`: its class, config and shapes in no memory.

    `class_name` is a class of transformers: of a model, or an auto class, such as `AutoModelForImageTextToText`.

    Raises:
        ConfigError: transformers is missing, does not know the config, or `class_name` is another kind of model.
    """

    def build(cls: Any, path: str) -> Any:
        import transformers

        of_class: Any = getattr(cls, "config_class", None) or transformers.AutoConfig
        make = cls._from_config if hasattr(cls, "_from_config") else cls.from_config
        with torch.device("meta"):
            return make(of_class.from_pretrained(path, local_files_only=True), attn_implementation=ATTENTION)

    return _opened(folder, class_name, build).eval()


def load_model(folder: ModelFolder, class_name: str, *, device: torch.device, dtype: torch.dtype) -> Any:
    """Return the folder's model in eval mode, without gradients, on `device`; `class_name` as in `model_skeleton`.

    Raises:
        ConfigError: As `model_skeleton`; the device has too little memory; or the weights are not those of the config.
    """
    check_fits(folder, device, dtype)

    def build(cls: Any, path: str) -> Any:
        options = {"dtype": dtype, "attn_implementation": ATTENTION, "use_safetensors": True}
        return cls.from_pretrained(path, local_files_only=True, output_loading_info=True, **options)

    model, found = _opened(folder, class_name, build)
    wrong = {what: sorted(map(str, found[f"{what}_keys"])) for what in ("missing", "unexpected", "mismatched")}
    if any(wrong.values()):
        shown = ", ".join(f"{len(keys)} {what} {keys[:_NUM_SHOWN]}" for what, keys in wrong.items() if keys)
        raise ConfigError(
            f"model '{folder.uri}': its weights do not fit {type(model).__name__} of its config.json: {shown}. Name "
            "the folder of a model of this class, whole and unchanged"
        )
    return model.eval().requires_grad_(False).to(device)


def load_processor(folder: ModelFolder) -> Any:
    """Return the folder's processor (`AutoProcessor`), with its tokenizer and chat template, or raise a ConfigError."""
    return _opened(folder, "AutoProcessor", lambda cls, path: cls.from_pretrained(path, local_files_only=True))


def check_vocabulary(folder: ModelFolder, model: Any, processor: Any) -> None:
    """Refuse a processor of another model (or skeleton): by its tokenizer's ids, and by the id that is an image."""
    head, largest = model.get_output_embeddings(), max(processor.tokenizer.get_vocab().values())
    if head is None:
        raise ConfigError(f"model '{folder.uri}': {type(model).__name__} has no head that gives logits of tokens")
    if largest >= head.weight.shape[0]:
        raise ConfigError(
            f"model '{folder.uri}': its tokenizer has ids up to {largest}, and its head {head.weight.shape[0]} tokens: "
            "they are of two models. Take all files from one"
        )
    own, other = (getattr(each, "image_token_id", None) for each in (model.config, processor))
    if None not in (own, other) and own != other:
        raise ConfigError(
            f"model '{folder.uri}': an image is token {own} by its config and {other} by its processor: they are of "
            "two models. Take all files from one"
        )


def check_fits(folder: ModelFolder, device: torch.device, dtype: torch.dtype) -> None:
    """Raise a ConfigError if the weights alone, in `dtype`, are larger than the device's free memory."""
    needed = folder.num_parameters * dtype.itemsize
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed > free:
        raise ConfigError(
            f"model '{folder.uri}': its {folder.num_parameters:,} parameters take {needed:,} bytes in {dtype}, and "
            f"{device} has {free:,} free: take a smaller model, a device with more memory, or half the precision "
            "(compute.precision=bfloat16)"
        )


def _opened(folder: ModelFolder, class_name: str, build: Callable[[Any, str], Any]) -> Any:
    """What `build` makes of a class and of the folder's digested files; each error of transformers named."""
    check_installed()
    # transformers is imported here, because it belongs to an extra and takes seconds to load.
    import transformers

    disable_bar: Callable[[], None] = transformers.utils.logging.disable_progress_bar
    disable_bar()
    with folder.view() as path:
        try:
            return build(getattr(transformers, class_name), str(path))
        # transformers, tokenizers and safetensors raise these types for a folder that they cannot open.
        except (OSError, ValueError, TypeError, LookupError, AttributeError, ImportError, RuntimeError) as error:
            reason = str(error).replace(str(path), folder.uri).strip().partition("\n")[0]
            raise ConfigError(
                f"model '{folder.uri}': transformers {transformers.__version__} cannot open it as {class_name} "
                f"({type(error).__name__}: {reason})"
            ) from error
