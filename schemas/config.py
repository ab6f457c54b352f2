"""The configuration tree of a run, for every room and users: frozen, complete, and the same model for every preset.

Each section has its own module and can be imported from here. This module joins the sections and checks across them.

*Method* (`source`, `images`, `masks`, `captions`, `filtering`, `composing`, `grounding_check`, `compute`, `shards`)
decides the bytes of the tables. It is part of a run's identity and may not change in a resume. A new key is left out at
its default (`exclude_if`): else older runs could not be resumed. *Placement* (`placement`, `source.endpoint_url` and
`source.requester_pays`) says where the work happens: it may change between two sessions of one run.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, ValidationInfo, field_validator, model_validator

from pseudoris.primitives.head_nouns import NounRule
from pseudoris.primitives.untrusted import EXTENSIONS, HEIF_EXTENSIONS, HEIF_PLUGIN
from pseudoris.primitives.uris import RECORDED, secrets_in, values_in
from pseudoris.schemas.card_settings import AUTO, AUTO_SECTIONS, Choices
from pseudoris.schemas.fitted import FittedConfig, FittedValues
from pseudoris.schemas.frozen import FrozenModel, NonNegative
from pseudoris.schemas.keep_rule import KeepCondition, LoneMasks
from pseudoris.schemas.stage_settings import MAX_BATCH, ComposingConfig
from pseudoris.schemas.stage_settings import BeamConfig as BeamConfig
from pseudoris.schemas.stage_settings import CaptionsConfig as CaptionsConfig
from pseudoris.schemas.stage_settings import GroundingCheckConfig as GroundingCheckConfig
from pseudoris.schemas.stage_settings import ImagesConfig as ImagesConfig
from pseudoris.schemas.stage_settings import MasksConfig as MasksConfig
from pseudoris.schemas.stage_settings import PriorConfig as PriorConfig
from pseudoris.schemas.stage_settings import ReductionConfig as ReductionConfig
from pseudoris.schemas.stage_settings import SamplingConfig as SamplingConfig
from pseudoris.schemas.stage_settings import SourceConfig as SourceConfig
from pseudoris.schemas.stage_settings import WeightsConfig as WeightsConfig

# Matches characters that neither a path nor JSON can hold: NUL, and surrogates (halves of a UTF-16 pair).
UNWRITABLE: Final = re.compile("[\\0\ud800-\udfff]")
# At most this much of a resource may be requested. No cluster has more, so a larger number is a typing error.
MAX_RESOURCE: Final = 1e6


class TaskPoolConfig(FrozenModel):
    """A pool of identical tasks or actors, and what each of them needs."""

    # Each task or actor takes this many CPUs. A fraction lets several run on one CPU.
    num_cpus: float = Field(default=1.0, ge=0, le=MAX_RESOURCE)
    # At most this many tasks or actors run. None: as many actors as fit when the run starts, and tasks to suit them.
    max_actors: int | None = Field(default=None, ge=1, le=1_000_000)
    # Each task or actor takes these amounts of custom Ray resources, for example to keep it on spot nodes.
    resources: dict[str, Annotated[float, Field(ge=0, le=MAX_RESOURCE)]] = Field(default_factory=dict)

    @field_validator("resources")
    @classmethod
    def _are_custom(cls, resources: dict[str, float]) -> dict[str, float]:
        if taken := {"CPU", "GPU", "memory", "object_store_memory", ""} & resources.keys():
            raise ValueError(f"{taken.pop()!r} is no custom resource of Ray: set num_cpus or num_gpus, or name another")
        return resources


class PoolConfig(TaskPoolConfig):
    """A pool of actors that hold models."""

    # Each actor takes this many GPUs. 0.5 lets two actors run on one GPU.
    num_gpus: float = Field(default=0.0, ge=0, le=MAX_RESOURCE)


class StorageConfig(FrozenModel):
    """How an S3 store is accessed, for SOURCE and OUT alike. Its address is `source.endpoint_url`."""

    # A request that gets no answer for this long is sent again. Raise it if a busy store answers more slowly.
    read_timeout_s: float = Field(default=60.0, gt=0, le=86_400)
    # An operation is retried, with growing pauses, up to this long; then the run stops and can be resumed. The limit
    # covers the whole operation: raise it if one part takes minutes to transfer.
    patience_s: float = Field(default=300.0, gt=0, le=604_800)

    @property
    def connect_timeout_s(self) -> float:
        """After how long a machine that does not answer counts as gone: in time for another attempt."""
        return min(10.0, self.patience_s / 2)

    def hasty(self) -> StorageConfig:
        """Return limits under which a store that is down is noticed within ten seconds."""
        return StorageConfig(read_timeout_s=min(self.read_timeout_s, 6.0), patience_s=min(self.patience_s, 6.0))


class PlacementConfig(FrozenModel):
    """Where the stages run; may change between two sessions of one run."""

    # fused: one actor holds all three models. staged: each stage has its own pool.
    mode: Literal["fused", "staged"] = "fused"
    # auto: joins the cluster that RAY_ADDRESS names or that runs on this machine, else starts one. local: starts one.
    address: str = "auto"
    # Each of Ray's two servers may take this long to start on this machine. A busy machine may need more than 30 s,
    # which is Ray's own limit and cannot be lowered. If a server never starts, the error comes this late.
    start_timeout_s: int = Field(default=30, ge=30, le=3600)
    # At most `max_actors` shards are read at once, and as many committed. By default there are enough for the bytes of
    # the images, and for eight times the actors if the cluster may grow: set it for a cluster that grows further.
    read: TaskPoolConfig = TaskPoolConfig(num_cpus=0.25)
    commit: TaskPoolConfig = TaskPoolConfig(num_cpus=0.25)
    fused: PoolConfig = PoolConfig()
    propose: PoolConfig = PoolConfig()
    caption: PoolConfig = PoolConfig()
    filter: PoolConfig = PoolConfig()
    # At most this many shards are assigned to an actor, with the current one. More than 2 only fill the object store.
    max_tasks_in_flight_per_actor: int = Field(default=2, ge=1, le=1_000)
    # A shard is given up for this session after it crashed its process this often on nodes that are still alive.
    max_deaths_per_shard: int = Field(default=6, ge=3, le=1_000)
    # If a shard runs out of memory twice with the same tiles, halve the tiles for that shard instead of stopping the
    # run. Its tables may then differ in the last bits from a run with more memory; its receipt and `verify` report
    # this.
    allow_degraded: bool = False
    storage: StorageConfig = StorageConfig()
    # Continue on another kind of device, or with other package versions, than the run's identity names. The tables of
    # those shards may differ in the last bits; their receipts and `verify` report this. Method and weights must still
    # be equal.
    allow_mixed: bool = False
    # A finished run of the same SOURCE: its masks, and its settings of masks, images and shards, are taken as they are,
    # and only captions and scores are computed (`annotate --masks-from`).
    masks_from: str | None = Field(default=None, min_length=1, exclude_if=lambda run: run is None)
    # If true, every part of the run is read, and missing or damaged parts are written again (`--repair`).
    repair: bool = Field(default=False, exclude_if=lambda is_repair: not is_repair)


# What `--on-cpus` sets. All of it, because one of them alone would be refused.
ON_CPUS: Final = (
    "compute.device=cpu",
    *(
        f"placement.{pool}.{setting}"
        for pool in ("fused", "propose", "caption", "filter")
        for setting in ("num_gpus=0", "num_cpus=1")
    ),
)


class FilterConfig(FrozenModel):
    """Distinctiveness-based filtering (paper section 3.3; method page section 4)."""

    # This model scores captions: clip, or a plug-in of the entry points `pseudoris.scorers`.
    engine: str = "clip"
    # The CLIP has this architecture, with the same values as for `captions.architecture`.
    architecture: str
    weights: WeightsConfig
    # A candidate is kept if its distinctiveness is strictly above tau.
    tau: NonNegative = 1.0
    # Further conditions, such as `correctness > 0.2`. A kept candidate meets all of them, so more conditions keep fewer
    # expressions of a mask. Their order makes no difference.
    keep: Annotated[tuple[KeepCondition, ...], AfterValidator(lambda keep: tuple(sorted(set(keep), key=str)))] = ()
    # Captions of a mask that is alone in its image, which no tau can judge. keep: all that meet `keep`. drop: none.
    # better_half: per mask, the half of its draws with the highest correctness, as the authors' loader.
    lone_masks: LoneMasks = "keep"
    # Besides the masked crop, CLIP embeds the mask's box with its surroundings, enlarged by this factor.
    context_scale: float = Field(default=1.2, ge=1.0, le=4.0)
    # If true, crops are resized with antialiasing. Like the authors, set `captions.has_antialiasing` to the same value.
    has_antialiasing: bool = True
    # Cosines are clamped to at least this, because a negative cosine would reverse the order of ratios.
    min_cosine: float = Field(default=1e-4, gt=0)
    # rules: ours, without a parser. spacy: spaCy's small English pipeline; pictures and quantities are skipped.
    # spacy_first_child: the authors' rule on `spacy_model`: the noun chunk of the parse's root, else of its first
    # child, else the whole caption.
    nouns: NounRule = "rules"
    # `nouns=spacy_first_child` uses this spaCy pipeline: the name of an installed package, or the path of a folder.
    spacy_model: str = Field(default="en_core_web_lg", min_length=1)
    # Crops in a forward pass; a CPU takes at most 8. A pass of texts has 16 prefixes for each crop. The last batch is
    # padded to its size, because rounding depends on the shape.
    batch_size: int = Field(default=64, ge=1, le=MAX_BATCH)
    # A file of what was fitted for these models: weights of the columns `confidence` and `rank`, which `keep` may
    # bound; lines of the column `weight`; the composer's posterior. None: `confidence` and `rank` are null, and every
    # weight is 1.
    fitted: FittedConfig | None = None
    # A plug-in engine reads these settings.
    options: dict[str, JsonValue] = Field(default_factory=dict)

    @property
    def fitted_values(self) -> FittedValues:
        """What the file of `fitted` holds; without one, nothing is fitted."""
        return FittedValues() if self.fitted is None else self.fitted.values


class ComputeConfig(FrozenModel):
    """Device, precision and seed of the models; all of it is part of a run's identity."""

    # none: engines of your own that compute without torch, such as clients of a service. Their processes then neither
    # load torch nor depend on the kind of CPU.
    device: Literal["cpu", "cuda", "none"] = "cuda"
    # The type of numbers that models compute in. auto: bfloat16 on a GPU of sm_80 or later, float32 on an older one and
    # without a GPU (`open` and `open-composed` bfloat16). Half precision rounds: on a CPU, trained `tiny` in bfloat16
    # has 2,076 of 2,112 captions and 241 of 244 kept expressions as in float32, and masks of a mean IoU of 0.997; in
    # float16 2,108, 244 and 0.9996 (docs/records/performance.md). SAM's upscaling computes in it on a GPU alone: masks
    # of `tiny` have a mean IoU of 0.9985 with those that float32 upscales. CoCa's projection to the vocabulary
    # multiplies in it and sums in float32. In float32 an H200's operations end at 2.1 (`base`) and 0.85 (`paper`)
    # images/s, against 13 and 8 in bfloat16 (modelled).
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    # Each process with models has this many CPU threads. The number is part of the identity, as it may change rounding.
    threads: int = Field(default=1, ge=1, le=1_024)
    # torch.compile for the towers of images, in passes of fixed shapes. Each actor then takes minutes to start, which
    # pays off in GPU runs that last hours. It needs a C++ compiler on every node.
    is_compiled: bool = False
    # All random draws depend on this seed. Another seed gives other captions.
    seed: int = Field(default=0, ge=0, lt=2**63)


class ShardsConfig(FrozenModel):
    """The size of a shard. A crash loses the shards in flight, and a stage should take under five minutes per shard."""

    # A shard has at most this many images. A larger number loses more work in a crash; a smaller one makes more files.
    max_images: int = Field(default=256, ge=1, le=1_000_000)
    # A shard has at most this many bytes of encoded images, as listed. The object store holds shards in progress.
    max_bytes: int = Field(default=256 * 2**20, ge=1, le=2**40)
    # If true, the images table holds the encoded images, so that a trainer does not need SOURCE.
    embed_images: bool = False


# A user who must choose a preset sees this text, which says what images the models of each preset know.
PRESETS_KNOW: Final = """\
  tiny, tiny-composed: drawn scenes alone. The models are in the package and need no GPU
  base, paper, open: photographs, by the paper's filter. Published models (`pseudoris weights`), on a GPU
  base-composed, open-composed: photographs, by a listener and a composer, which are right more often on drawings
Of those for photographs no quality was measured: this project never ran them with trained weights"""
_DRAWN_PRESETS: Final = ("tiny", "tiny-composed")
# Without a GPU `compute.precision=auto` is bfloat16 in these.
_HALF_ON_CPUS: Final = ("open", "open-composed")
_UNTESTED_PRESETS: Final = ("base", "base-composed", "open", "open-composed", "paper")


def drawn_warning(preset: str) -> str | None:
    """Return what must stand above figures of a preset whose models know drawn scenes alone; None of others."""
    drawn = f"The preset {preset} knows drawn scenes alone: of photographs it makes nonsense."
    return drawn if preset in _DRAWN_PRESETS else None


def plan_warning(preset: str) -> str | None:
    """Return what a user should know of a preset before a run begins; None if there is nothing."""
    untested = f"The preset {preset} was never run with trained weights: look at a sample before you annotate all."
    return drawn_warning(preset) or (untested if preset in _UNTESTED_PRESETS else None)


class RunConfig(FrozenModel):
    """All settings of a run, resolved: preset, then YAML, then `--set`.

    It is written to the run's header, so no text in it may hold a secret. Queries of uris: `store.runs.header`.
    """

    # The configuration started from this preset. A resume without --preset takes it.
    preset: str
    source: SourceConfig = SourceConfig()
    images: ImagesConfig = ImagesConfig()
    masks: MasksConfig
    captions: CaptionsConfig
    filtering: FilterConfig
    # With None, no expressions are composed.
    composing: ComposingConfig | None = None
    # Gone since 0.7.0, and refused in a new run. Headers of 0.5.0 and 0.6.0 may have it, and their hash holds it.
    grounding_check: GroundingCheckConfig | None = Field(default=None, exclude_if=lambda check: check is None)
    compute: ComputeConfig = ComputeConfig()
    shards: ShardsConfig = ShardsConfig()
    placement: PlacementConfig = PlacementConfig()

    @model_validator(mode="before")
    @classmethod
    def _can_be_written(cls, tree: Any, info: ValidationInfo) -> Any:
        # Texts are checked before the fields, because the error of a field repeats its value, which may hold a secret.
        for key, value in values_in(tree):
            if letter := UNWRITABLE.search(key + (value if isinstance(value, str) else "")):
                raise ValueError(f"a text holds {letter[0]!r}, which neither a path nor JSON can hold: remove it")
        # Queries of urls are accepted here (None), so that old runs can continue. New headers refuse them later.
        if info.context != RECORDED and (found := "; ".join(secrets_in(tree, None))):
            raise ValueError(found)
        return tree

    @model_validator(mode="before")
    @classmethod
    def _is_without_gone_settings(cls, tree: Any) -> Any:
        # Version 0.5 had `domain` and `placement.accept_domain`. They are left out. `load_config` tells it.
        if not isinstance(tree, dict):
            return tree
        left = {key: value for key, value in tree.items() if key != "domain"}
        if isinstance(placement := left.get("placement"), dict):
            left["placement"] = {key: value for key, value in placement.items() if key != "accept_domain"}
        return left

    @model_validator(mode="after")
    def _fits_together(self, info: ValidationInfo) -> Self:
        for section, engine in (("masks", "sam"), ("captions", "coca"), ("filtering", "clip")):
            part = getattr(self, section)
            if part.engine == engine and part.options and info.context != RECORDED:
                raise ValueError(
                    f"{section}.options has {', '.join(part.options)}, but {section}.engine={engine} takes none: "
                    "remove them, or name the engine that takes them"
                )
        without = [name for name, pool in self.model_pools().items() if pool.num_gpus == 0]
        if self.compute.device == "cuda" and without:
            raise ValueError(
                f"compute.device=cuda, but placement.{without[0]}.num_gpus=0: set it above 0, or compute.device=cpu"
            )
        confidence, posterior = self.filtering.fitted_values.confidence, self.filtering.fitted_values.posterior
        is_deaf = self.captions.listening is None
        if is_deaf and confidence is not None and confidence.needs_listener:
            raise ValueError(
                "filtering.fitted has weights for a listener's scores, but captions.listening is not set: set it, or "
                "name a file that was fitted without a listener"
            )
        if self.grounding_check is None and confidence is not None and confidence.grounding:
            raise ValueError(
                "filtering.fitted has a weight for a second opinion, and only runs of older versions have one: name a "
                "file that was fitted without it"
            )
        if is_deaf and self.composing is not None and posterior is not None and posterior.counts == "probability":
            raise ValueError(
                "composing with a posterior that counts probabilities needs a listener, but captions.listening is not "
                "set: set it, or name a file of filtering.fitted that was fitted for draws"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _lists_what_the_heif_plugin_reads(cls, tree: Any) -> Any:
        source, images = (tree.get(name) or {} for name in ("source", "images")) if isinstance(tree, dict) else ((), ())
        if isinstance(source, dict) and isinstance(images, dict) and "extensions" not in source:
            plugins = images.get("decoder_plugins")
            if isinstance(plugins, list | tuple) and HEIF_PLUGIN in plugins:
                return {**tree, "source": {**source, "extensions": (*EXTENSIONS, *HEIF_EXTENSIONS)}}
        return tree

    @model_validator(mode="after")
    def _waits_for_a_card_alone(self) -> Self:
        return self if self.compute.device == "cuda" else self.without_card()

    def without_card(self) -> Self:
        """Return the tree with the defaults, those of 0.6.0, where it says `auto`: no card decides."""
        fields = {name: type(getattr(self, name)).model_fields for name in AUTO_SECTIONS}
        defaults = {name: {key: field.default for key, field in found.items()} for name, found in fields.items()}
        if self.preset in _HALF_ON_CPUS:
            defaults["compute"]["precision"] = "bfloat16"
        return self.with_chosen(defaults)

    def with_chosen(self, choices: Choices) -> Self:
        """Return the tree with `choices` where it says `auto`; what they do not name stays as it is."""
        sections = {name: getattr(self, name) for name in AUTO_SECTIONS}
        for name, section in sections.items():
            found = {key: choices.get(name, {}).get(key, AUTO) for key, value in section if value == AUTO}
            sections[name] = section.model_copy(update=found)
        return self.model_copy(update=sections)

    def decided(self, before: RunConfig) -> str:
        """Return `KEY=VALUE, …` of what is `auto` in `before` and decided here, but for the decoder, told apart."""
        pairs = ((name, *each) for name in AUTO_SECTIONS for each in getattr(before, name))
        keys = [(name, key) for name, key, value in pairs if value == AUTO and key != "decoder"]
        return ", ".join(f"{name}.{key}={getattr(getattr(self, name), key)}" for name, key in keys)

    def model_pools(self) -> dict[str, PoolConfig]:
        """Return the pools that hold models in the placement's mode, by their names in the config."""
        if self.placement.mode == "fused":
            return {"fused": self.placement.fused}
        names = ("propose", "caption", "filter") if self.placement.masks_from is None else ("caption", "filter")
        return {name: getattr(self.placement, name) for name in names}

    def method(self) -> dict[str, Any]:
        """Return the part of the tree that decides the tables' bytes, as plain JSON values."""
        # These settings of SOURCE say where a bucket is and who pays, not what is in it: the same bucket may have
        # another address later. Of a text bank only the digest stays, not thousands of texts.
        left_out: Any = {
            "source": {"endpoint_url", "requester_pays", "allowed_query"},
            "composing": {"bank": {"values"}},
        }
        return self.model_dump(mode="json", exclude={"preset": True, "placement": True, **left_out})
