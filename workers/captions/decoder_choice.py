"""Says which decoder captions the images of a run: what `captions.decoder` names, or for `auto` what the card proves.

Fixed shapes are for a GPU on which their proof holds; the prefix tree is for all others. Called where a run's identity
is measured (`workers/stages.py`, `pipeline/identity.py`), by `captioner`, and by `doctor`.
"""

from __future__ import annotations

from pseudoris.primitives.errors import BrokenDeviceError, ConfigError, TransientError
from pseudoris.schemas.card_settings import AUTO, decoder_choices
from pseudoris.schemas.config import CaptionsConfig, ComputeConfig
from pseudoris.workers.captions.row_kernels import PLAIN, triton_version
from pseudoris.workers.faults.quarantine import is_out_of_memory

_OFF = "fixed shapes are off on this card:"
# A process proves a configuration once; `is_short` and both sections are the key.
_FAULTS: dict[str, str] = {}


def chosen_decoder(captions: CaptionsConfig, compute: ComputeConfig, *, is_short: bool = False) -> tuple[str, str]:
    """Return the decoder that `captions.decoder` names, or for `auto` the one that this process's device proves.

    With it comes why `auto` takes the slower one; one sentence, empty where nothing is to say. The short proof is for
    a process of a run whose whole proof planning has made.

    Raises:
        TransientError: Memory ran out in the whole proof. In the short one torch's own error says so.
    """
    if captions.decoder != AUTO:
        return captions.decoder, ""
    if compute.device != "cuda":
        return "tree", ""
    version, why = triton_version()
    if version == PLAIN:
        return "tree", f"{_OFF} Triton cannot compile for it ({why})"
    try:
        fault = _fault(captions, compute, is_short=is_short)
    except BrokenDeviceError as error:
        fault = str(error)
    return ("tree", f"{_OFF} {fault}") if fault else ("static", "")


def settings_of(decoder: str, captions: CaptionsConfig, compute: ComputeConfig) -> CaptionsConfig:
    """Return the settings with which this process captions by the decoder that `chosen_decoder` gave it.

    Only a run in fixed shapes that may be mixed lets a process on a GPU choose. There the tree has its own settings.
    """
    if compute.device == "cuda" and captions.decoder == AUTO and decoder == "tree":
        return captions.model_copy(update=decoder_choices(decoder)["captions"])
    return captions


def check_named_decoder(captions: CaptionsConfig, compute: ComputeConfig, *, is_short: bool = False) -> None:
    """Prove fixed shapes on a GPU where `captions.decoder` names them; a run on a CPU needs no proof.

    Raises:
        ConfigError: The proof fails. The tree may not take over, because a run has one decoder.
        BrokenDeviceError: The device failed, and this process cannot use it any further.
        TransientError: As `chosen_decoder`.
    """
    if captions.decoder != "static" or compute.device != "cuda":
        return
    if fault := _fault(captions, compute, is_short=is_short):
        raise ConfigError(
            f"captions.decoder=static: {_OFF} {fault}. Begin a new run with --set captions.decoder=tree; one that has "
            "begun goes on with --allow-mixed, by the tree"
        )


def _fault(captions: CaptionsConfig, compute: ComputeConfig, *, is_short: bool) -> str:
    key = f"{captions.model_dump_json()} {compute.model_dump_json()} {is_short}"
    if key not in _FAULTS:
        # Imported here: the proof builds the captioner's engine, and the captioner imports this module.
        from pseudoris.workers.captions.static_proof import fault_of_fixed_shapes

        try:
            _FAULTS[key] = fault_of_fixed_shapes(captions, compute, is_short=is_short)
        except (RuntimeError, MemoryError) as error:
            # For a process of a run the fault ladder has a remedy.
            if is_short or not is_out_of_memory(error):
                raise
            # Torch's text names what is free, and what other processes hold.
            raise TransientError(
                "memory ran out in the proof of fixed shapes: end other processes that use the GPU, or lower "
                f"captions.cache_bytes (now {captions.cache_bytes}) in a new run ({error})"
            ) from error
    return _FAULTS[key]
