"""The three stages of a run in their order: name, part of the config, and the engine behind each.

`pipeline` and `faults` build them, `pipeline` asks for their digests; `doctor` and `weights` check them; engines and
`training` take digests. Importing an engine loads torch and open_clip, which takes seconds, so this module must import
none: the digests of what our engines load are here too, with the kind of device, which alone loads torch.

A model is replaced by a plug-in: a class that follows the protocol `Engine` below, found by its entry point.

A plug-in package declares, for instance

    [project.entry-points."pseudoris.captioners"]
    blip = "my_package.blip:BlipCaptioner"

and a run selects it with `--set captions.engine=blip`. Its own settings are in `captions.options`. It does its work on
an image through `pseudoris.workers.faults.quarantine.apply_to_images`, which quarantines an image on which it raises,
and may take pixels, decoded once for all stages, from `pseudoris.workers.crops.shard_pixels.prefetched_pixels`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, reduce
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final, Protocol

from pseudoris.files.filesystems import open_location
from pseudoris.primitives.errors import ConfigError, gather
from pseudoris.primitives.measures import LOAD_SECONDS, record
from pseudoris.primitives.untrusted import file_sha256
from pseudoris.primitives.uris import BUILTIN_PREFIX
from pseudoris.schemas.card_settings import AUTO, SLOTS, choices_of_card, decoder_choices
from pseudoris.schemas.config import (
    CaptionsConfig,
    ComputeConfig,
    FilterConfig,
    MasksConfig,
    PriorConfig,
    RunConfig,
)
from pseudoris.schemas.shard import Shard
from pseudoris.workers.checkpoints.model_configs import read_model_config
from pseudoris.workers.checkpoints.model_folder import ModelFolder, names_folder
from pseudoris.workers.checkpoints.sam_architectures import architecture_digest
from pseudoris.workers.checkpoints.weight_files import MissingWeightsError, is_unfetched, tensors_digest
from pseudoris.workers.checkpoints.weight_headers import check_weight_header
from pseudoris.workers.cut_masks import with_cuts, without_cut_targets
from pseudoris.workers.faults.image_boundary import ImageBoundary
from pseudoris.workers.faults.quarantine import apply_to_images
from pseudoris.workers.pass_sizes import pass_sizes_digest

Stage = Callable[[Shard], Shard]


STAGE_PROPOSE = "propose"
STAGE_CAPTION = "caption"
STAGE_FILTER = "filter"


class Engine(Protocol):
    """The model of a stage, from its section of the config (`masks`, `captions`, `filtering`).

    A proposer takes images and sets `masks`. A captioner takes masks and sets `expressions`, unscored, with equal texts
    of one mask merged. A scorer sets the scores and `kept` of every expression. A call never changes its argument, and
    quarantined images pass unchanged.

    An engine that reads other sections too has a class method `of_run`, which loads the model from the whole config.

    Loading and the digest raise a `ConfigError` with the remedy if weights, another file, a package or a GPU is missing
    or does not fit the rest of `config`; the digest's names all that are missing.

    Where the class has a set of names `OPTIONS`, other `options` are refused before a run is planned. So is
    `captions.whole_picture`, unless a captioner's class has a true `HAS_WHOLE_PICTURE`: it sets
    `ShardImage.whole_picture` to so many cleaned captions.
    """

    def __init__(self, config: Any, compute: ComputeConfig) -> None:
        """Load the model."""

    def __call__(self, shard: Shard) -> Shard:
        """Return the shard after the stage."""

    @classmethod
    def weights_digest(cls, config: Any) -> str:
        """Return the sha256 of the weights that `config` names, without loading the model."""


@dataclass(frozen=True, slots=True)
class StageKind:
    """A stage: its name, its section of the config, and the entry points of its engines."""

    name: str
    section: str
    group: str

    def settings(self, config: RunConfig) -> Any:
        """Return the stage's section of the config."""
        return getattr(config, self.section)

    def entry(self, config: RunConfig) -> EntryPoint:
        """Return the entry point of the stage's engine."""
        name, found = self.settings(config).engine, {entry.name: entry for entry in entry_points(group=self.group)}
        if name in found:
            return found[name]
        known = ", ".join(sorted(found)) or "none; is the package installed?"
        raise ConfigError(
            f"{self.section}.engine={name!r}: no such engine in the entry points {self.group!r} (known: {known})"
        )

    def engine(self, config: RunConfig) -> Any:
        """Return the class of the stage's engine, an `Engine`."""
        entry = self.entry(config)
        try:
            return entry.load()
        except ImportError as error:
            raise ConfigError(
                f"{self.section}.engine={entry.name!r}: {entry.value} cannot be imported: {error}"
            ) from error

    def build(self, config: RunConfig) -> Stage:
        """Return the stage with its model loaded."""
        started = time.perf_counter()
        engine = self.engine(config)
        loaded = engine.of_run(config) if hasattr(engine, "of_run") else engine(self.settings(config), config.compute)
        stage: Stage = ImageBoundary(loaded, self.name, is_scored=self.name == STAGE_FILTER)
        if self.name == STAGE_CAPTION:
            # Not after the proposer: masks may come from another run.
            stage = partial(_one_after_another, with_cuts, stage)
        if self.name == STAGE_FILTER and config.composing is not None:
            # Imported here, because readers and committers import this module too, and the composer imports torch and
            # all models.
            from pseudoris.workers.composing.composer import composer_of
            from pseudoris.workers.filtering.mask_colours import with_colours

            if config.composing.has_colours:
                stage = partial(_one_after_another, stage, partial(with_colours, config.compute))
            composing = partial(apply_to_images, stage=STAGE_FILTER, work=composer_of(config))
            stage = partial(_one_after_another, stage, composing)
        if self.name == STAGE_FILTER:
            stage = partial(_one_after_another, stage, without_cut_targets)
        record(LOAD_SECONDS, time.perf_counter() - started, of=self.name)
        return stage

    def weights_digest(self, config: RunConfig, *, downloads: bool = True) -> str:
        """Return the sha256 of the stage's weights; without `downloads`, what is not here is refused."""
        digest = DIGESTS.get(self.entry(config).value)
        if digest is None:
            engine, given = self.engine(config), self.settings(config)
            known = vars(engine).get("OPTIONS", given.options)  # not those of a class that it extends
            if unknown := [name for name in given.options if name not in known]:
                raise ConfigError(
                    f"{self.section}.options has {', '.join(unknown)}, but {self.section}.engine={given.engine} takes "
                    f"{', '.join(sorted(known)) or 'none'}: remove them, or name the engine that takes them"
                )
            if self.section == "captions" and given.whole_picture and not getattr(engine, "HAS_WHOLE_PICTURE", False):
                raise ConfigError(
                    f"captions.whole_picture={given.whole_picture}: captions.engine={given.engine} captions no whole "
                    "images: --set captions.whole_picture=0"
                )
            digest = engine.weights_digest
        try:
            if not downloads and is_unfetched(weights := self.settings(config).weights):
                raise ConfigError(f"weights '{weights.uri}' are not downloaded, because another part cannot be used")
            return str(digest(self.settings(config)))
        except MissingWeightsError as error:
            raise error.of_preset(config.preset) from error
        except OSError as error:
            raise ConfigError(f"{self.section}: {error.filename} cannot be read: {error.strerror}") from error

    def folder(self, config: RunConfig) -> ModelFolder | None:
        """Return the model folder that the stage's engine reads; None if it reads none, or is not one of ours."""
        weights = getattr(self.settings(config), "weights", None)
        is_ours = self.entry(config).value.startswith("pseudoris.")
        return ModelFolder.open(weights.uri) if is_ours and weights is not None and names_folder(weights.uri) else None


STAGES: Final = (
    StageKind(STAGE_PROPOSE, "masks", "pseudoris.proposers"),
    StageKind(STAGE_CAPTION, "captions", "pseudoris.captioners"),
    StageKind(STAGE_FILTER, "filtering", "pseudoris.scorers"),
)
POOL_STAGES: Final = {
    "fused": (STAGE_PROPOSE, STAGE_CAPTION, STAGE_FILTER),
    **{stage.name: (stage.name,) for stage in STAGES},
}


def _one_after_another(first: Stage, then: Stage, shard: Shard) -> Shard:
    return then(first(shard))


def stages_named(names: tuple[str, ...]) -> tuple[StageKind, ...]:
    """Return the stages of `names` in stage order."""
    return tuple(kind for kind in STAGES if kind.name in names)


def sam_digest(config: MasksConfig) -> str:
    """Return the sha256 of SAM's weights, with those of an instance prior and of an architecture from a file."""
    return combined(
        partial(tensors_digest, config.weights),
        partial(prior_digest, config.prior),
        partial(architecture_digest, config.architecture),
    )


def coca_digest(config: CaptionsConfig) -> str:
    """Return the sha256 of CoCa's weights, with that of a model config from a file."""
    own = partial(_model_config_digest, config.architecture, is_captioner=True)
    return combined(partial(tensors_digest, config.weights), own)


def clip_digest(config: FilterConfig) -> str:
    """Return the sha256 of CLIP's weights, with those of `spacy_model` and of a model config from a file."""
    parts: list[Callable[[], str | None]] = [partial(tensors_digest, config.weights)]
    if config.nouns == "spacy_first_child":
        # This is imported here, because most runs find nouns by rules, without spaCy.
        from pseudoris.workers.filtering.spacy_nouns import pipeline_digest

        parts.append(partial(pipeline_digest, config))
    return combined(*parts, partial(_model_config_digest, config.architecture, is_captioner=False))


def _model_config_digest(architecture: str | None, *, is_captioner: bool) -> str | None:
    """Return the sha256 of the user's own file with a model config; None for a name or a file of ours."""
    read_model_config(architecture, is_captioner=is_captioner)
    if architecture is None or architecture.startswith(BUILTIN_PREFIX) or not architecture.endswith(".json"):
        return None
    return file_sha256(Path(architecture))


def prior_digest(config: PriorConfig) -> str | None:
    """Return the sha256 of the prior's file, or None for `none`; an unset kind is an error."""
    config.check_is_set()
    if config.kind == "none" or config.path is None:
        return None
    if config.kind == "torchvision" and "://" not in config.path:
        check_weight_header(Path(config.path), f"prior.path={config.path}")
    try:
        with open_location(config.path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"prior.path={config.path} cannot be read: {error}") from error


def combined(*parts: Callable[[], str | None]) -> str:
    """Return one digest over those that are not None; errors of all parts are raised together."""
    digests = [str(digest) for digest in gather(*parts) if digest is not None]
    return reduce(lambda before, digest: hashlib.sha256(f"{before} {digest}".encode()).hexdigest(), digests)


# The keys are values of entry points, so that another package's engine of the same name is not mistaken for ours.
DIGESTS: Final[Mapping[str, Callable[[Any], str]]] = {
    "pseudoris.workers.masks:SamProposer": sam_digest,
    "pseudoris.workers.captions:CocaCaptioner": coca_digest,
    "pseudoris.workers.filtering:ClipScorer": clip_digest,
}


# Increase this number when a change alters the bits of a GPU. 1: captions are decoded in fixed shapes. 2: masks too.
# 3: captions have slots of fixed number, masks fused attention.
_CUDA_REVISION: Final = "3"
# The decoder that a GPU's captions were begun with, among the versions of an identity.
DECODER: Final = "pseudoris.decoder"


def device_versions(config: RunConfig) -> dict[str, str]:
    """Return what decides bits beside the packages, by name; nothing where no engine needs torch."""
    compute = config.compute
    sizes = {"pseudoris.passes": pass_sizes_digest()} if compute.device != "none" else {}
    if compute.device != "cuda":
        return sizes
    from pseudoris.workers.captions.row_kernels import triton_version

    name, _ = gpu_decoder(config)
    decoder = {DECODER: name} if name else {}
    if name == "static":
        from pseudoris.workers.captions.static_engine import num_slots

        decoder[SLOTS] = str(num_slots(config.captions, compute))
    return {**sizes, "pseudoris.cuda": _CUDA_REVISION, "triton": triton_version()[0], **decoder}


def gpu_decoder(config: RunConfig, *, is_proven: bool = False) -> tuple[str, str]:
    """Return the decoder of CoCa's captions on this process's GPU, and why `auto` takes the slower one, one sentence.

    Both are empty on a CPU, and for other engines, which have a decoder of their own. With `is_proven`, before a run,
    the whole proof is made, for a decoder that the configuration names too; ConfigError: it fails.
    """
    if config.compute.device != "cuda" or config.captions.engine != "coca":
        return "", ""
    from pseudoris.workers.captions.decoder_choice import check_named_decoder, chosen_decoder

    if is_proven:
        check_named_decoder(config.captions, config.compute)
    return chosen_decoder(config.captions, config.compute, is_short=not is_proven)


def decoder_words(config: RunConfig, name: str = "", why: str = "") -> str:
    """Return in words what decodes captions; empty for engines with a decoder of their own, and for `auto` on a CPU.

    `name` and `why` are those of `gpu_decoder`; both are empty before a GPU was asked.
    """
    captions = config.captions
    if captions.engine != "coca" or (config.compute.device != "cuda" and captions.decoder == AUTO):
        return ""
    asked = f"{AUTO} (by the GPU of the cluster)" if captions.decoder == AUTO else captions.decoder
    return ": ".join(filter(None, (name or asked, why)))


def decided_here(config: RunConfig) -> tuple[RunConfig, str]:
    """Return the config with what this process's GPU, if any, decides of it, and the sentence of `gpu_decoder`."""
    if config.compute.device != "cuda":
        return config, ""
    import torch

    device_kind(config.compute)
    total_bytes, (major, _) = torch.cuda.mem_get_info()[1], torch.cuda.get_device_capability()
    # Tensor cores compute in bfloat16 from sm_80 on.
    config = config.with_chosen(choices_of_card(total_bytes, has_bfloat16=major >= 8))
    name, why = gpu_decoder(config, is_proven=True)
    return config.with_chosen(decoder_choices(name)), why


def device_kind(compute: ComputeConfig) -> str:
    """Return the GPU's name, `cpu_kind` of a CPU, or `none` if no engine needs torch; otherwise this loads it."""
    if compute.device == "none":
        return "none"
    if compute.device == "cuda":
        # torch is imported here, because processes without models must not pay its load time and memory.
        import torch

        from pseudoris.workers.device import prepare_device

        prepare_device(compute)
        return torch.cuda.get_device_name()
    from pseudoris.workers.cpu_bits import cpu_kind

    return cpu_kind(compute.precision)
