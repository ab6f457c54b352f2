"""The one configuration tree of a run: frozen, complete, and the same model for every preset.

Two groups matter to a resume. *Method* (`source`, `images`, `masks`, `captions`, `filtering`, `composing`, `compute`,
`shards`) decides the bytes of the tables and is part of a run's identity. *Placement* (`placement`, and
`source.endpoint_url`) says where the work happens and may change between two starts of one run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from schemas.composing import ComposingConfig
from schemas.frozen import FrozenModel as FrozenModel
from schemas.frozen import NonNegative, UnitInterval, without_none
from schemas.keeping import KeepCondition
from schemas.listening import ConfidenceConfig, ListeningConfig
from schemas.placement import PlacementConfig as PlacementConfig
from schemas.placement import PoolConfig as PoolConfig
from schemas.placement import StorageConfig as StorageConfig
from schemas.shard import CROP_MASKED, crop_context
from schemas.uris import secrets_in


class WeightsConfig(FrozenModel):
    """Where a model's weights come from.

    Attributes:
        uri: A local path, an fsspec url, `builtin:<file>` for weights shipped in the package,
            `open_clip:<model>/<tag>` for a hub tag, or `random:<seed>` for untrained weights.
        sha256: Expected digest; a difference is refused before anything runs. None accepts any file.
        how_to_get: What the error for a missing file tells the user to run.
    """

    uri: str = Field(min_length=1)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    how_to_get: str = ""


class SourceConfig(FrozenModel):
    """How SOURCE is read."""

    # auto: `.tar` names a WebDataset, `.parquet` a table, everything else is listed as image files.
    format: Literal["auto", "files", "webdataset", "parquet"] = "auto"
    # Lower-case. A file of another extension is not listed: the user's notes are no broken images.
    extensions: tuple[str, ...] = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")
    # Parquet: the first of these columns that exists is read, bytes before uris.
    bytes_columns: tuple[str, ...] = ("bytes", "image_bytes", "image")
    uri_columns: tuple[str, ...] = ("uri", "url", "path")
    # Where relative uris start and local ones must lie: a table is untrusted input. None is the table's own folder.
    # Never relative: it would be another folder in another process.
    uri_root: str | None = None
    # Custom S3 endpoint; None is AWS. Credentials come from the environment only.
    endpoint_url: str | None = Field(default=None, pattern=r"^https?://")

    @model_validator(mode="after")
    def _has_absolute_root(self) -> Self:
        path = (self.uri_root or "/").removeprefix("file://").removeprefix("local://")
        if "://" not in path and not Path(path).is_absolute():
            raise ValueError(f"uri_root {self.uri_root!r} is relative: give an absolute path, or an fsspec url")
        return self


class ImagesConfig(FrozenModel):
    """Limits of decoding. Beyond them an image is quarantined, never guessed at."""

    # A 12,000 x 8,000 photograph passes. Raised, every stage holds 3 bytes a pixel, decoding and cutting crops a few
    # more for a moment; proposing peaks near 35 (measured: 24 megapixels, `tiny`), and each candidate adds an eighth.
    max_pixels: int = Field(default=100_000_000, ge=1)
    # Bounds what one object can take of the object store.
    max_bytes: int = Field(default=256 * 2**20, ge=1)
    # A decoder that hangs counts as killed; raise it for gigapixel TIFFs on slow disks.
    decoder_timeout_s: float = Field(default=60.0, gt=0)
    # Address space of the proving process above its own start; below about 4 bytes a pixel of
    # max_pixels, large images that are fine are quarantined.
    decoder_memory_bytes: int = Field(default=4 * 2**30, ge=2**28)
    # Modules that register further formats with Pillow when imported (`pillow_heif.HeifImagePlugin`); they must be
    # installed on every node. Each is more code that untrusted bytes reach, hence none by default.
    decoder_plugins: tuple[str, ...] = ()


class SamArchitecture(FrozenModel):
    """The numbers that `segment_anything`'s modules are built from; `image_size` and widths in pixels and units.

    Source: segment-anything 1.0, build_sam.py, for ViT-B, L and H.
    """

    image_size: int = Field(default=1024, ge=32)
    patch_size: int = Field(default=16, ge=4)
    encoder_width: int = Field(ge=8)
    encoder_depth: int = Field(ge=1)
    encoder_heads: int = Field(ge=1)
    # Blocks that attend to the whole image; all others attend within `window_size` patches.
    encoder_global_blocks: tuple[int, ...]
    window_size: int = Field(default=14, ge=0)
    prompt_width: int = Field(default=256, ge=8)
    decoder_depth: int = Field(default=2, ge=1)
    decoder_heads: int = Field(default=8, ge=1)
    decoder_mlp_width: int = Field(default=2048, ge=8)
    iou_head_depth: int = Field(default=3, ge=1)
    iou_head_width: int = Field(default=256, ge=8)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}")
        if self.encoder_width % self.encoder_heads:
            raise ValueError(f"encoder_width {self.encoder_width} is no multiple of heads {self.encoder_heads}")
        out = [b for b in self.encoder_global_blocks if not 0 <= b < self.encoder_depth]
        if out:
            raise ValueError(f"encoder_global_blocks {out} lie outside 0..{self.encoder_depth - 1}")
        return self


class ReductionConfig(FrozenModel):
    """How over-segmented proposals become objects where no instance prior exists (method page, section 1)."""

    # Masks that overlap a better one by more than this IoU are doubles.
    mask_nms_iou: UnitInterval = 0.7
    # Shares of the image's area. A mask below the first is speckle, above the second background.
    min_area: UnitInterval = 0.001
    max_area: UnitInterval = 0.8
    # A mask is a part of another when at least this share of it lies inside ...
    min_inside: UnitInterval = 0.9
    # ... and its area is at most this share of the other's. 1.0 drops whatever lies inside.
    max_part_area: UnitInterval = 0.5


class PriorConfig(FrozenModel):
    """An instance detector's opinion of what the objects are (the paper: CutLER, score >= 0.5)."""

    kind: Literal["none", "table", "torchvision"] = "none"
    # table: Parquet, or COCO JSON; torchvision: a local checkpoint.
    path: str | None = None
    min_score: UnitInterval = 0.5
    # intersection: the SAM mask that covers most of the instance (the paper); iou: the best fitting one (ours).
    match: Literal["intersection", "iou"] = "intersection"

    @model_validator(mode="after")
    def _has_path(self) -> Self:
        if self.kind != "none" and not self.path:
            raise ValueError(f"prior.kind={self.kind} needs prior.path: the table or checkpoint to read")
        return self


class MasksConfig(FrozenModel):
    """Mask proposal. Names and defaults as SAM publishes them, but for `pred_iou_thresh` (the paper: 0.5)."""

    engine: str = "sam"
    architecture: SamArchitecture
    weights: WeightsConfig
    points_per_side: int = Field(default=32, ge=1)
    # Prompts a forward pass of the mask decoder. Part of the identity: rounding follows the batch's shape.
    points_per_batch: int = Field(default=64, ge=1)
    pred_iou_thresh: float = 0.5
    stability_score_thresh: float = 0.95
    stability_score_offset: float = Field(default=1.0, ge=0)
    box_nms_thresh: UnitInterval = 0.7
    # 0: the whole image only. Each layer l adds 4^l crops and their cost.
    crop_n_layers: int = Field(default=0, ge=0, le=4)
    crop_nms_thresh: UnitInterval = 0.7
    crop_overlap_ratio: UnitInterval = 512 / 1500
    crop_n_points_downscale_factor: int = Field(default=1, ge=1)
    # Holes and islands up to this many pixels are removed; 0 leaves masks as they are.
    min_mask_region_area: int = Field(default=0, ge=0)
    reduction: ReductionConfig = ReductionConfig()
    prior: PriorConfig = PriorConfig()
    options: dict[str, JsonValue] = Field(default_factory=dict, description="Settings of a plug-in engine.")


class BeamConfig(FrozenModel):
    """Group beam search as open_clip does it: groups without a diversity term, so one group is computed."""

    num_beams: int = Field(default=6, ge=1)
    num_groups: int = Field(default=3, ge=1)
    # logit: the sum of raw logits, the authors' setting; logprob: of log-probabilities.
    beam_score: Literal["logit", "logprob"] = "logit"
    length_penalty: float = 1.0

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.num_beams % self.num_groups:
            raise ValueError(f"num_beams {self.num_beams} is no multiple of num_groups {self.num_groups}")
        return self


class SamplingConfig(FrozenModel):
    """Distinctive caption sampling (paper section 3.2; method page section 3)."""

    top_k: tuple[Annotated[int, Field(ge=1)], ...] = (5, 7, 9, 11, 13)
    top_p: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.4, 0.5, 0.6, 0.7, 0.8)
    # False draws from the target's own distribution: the nucleus baseline.
    is_distinctive: bool = True
    # Weight of the others' mean; the paper subtracts all of it.
    others_weight: NonNegative = 1.0
    temperature: float = Field(default=1.0, gt=0)
    # How many other masks count. Above it: `own` falls back to the target alone (the paper, at 30 masks),
    # `nearest` averages the most similar ones.
    others_max: int = Field(default=30, ge=1)
    over_max: Literal["own", "nearest"] = "nearest"
    # mean: all that count alike (the paper); similar: by a softmax of the similarity, so that the hardest to tell apart
    # count most. The weights sum to `others_weight` in both, before each is multiplied with its similarity.
    others_weighting: Literal["mean", "similar"] = "mean"
    # Of that softmax. Raised, it approaches the mean; lowered, the most similar mask alone.
    others_temperature: float = Field(default=0.2, gt=0)

    @model_serializer(mode="wrap")
    def _without_plain_mean(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        tree: dict[str, Any] = handler(self)
        # Runs from before there was a choice have the identity and the hash of those that take the mean.
        dropped = ("others_weighting", "others_temperature") if self.others_weighting == "mean" else ()
        return {key: value for key, value in tree.items() if key not in dropped}


class CaptionsConfig(FrozenModel):
    """Candidate captions for each mask: crops, beam search and sampling."""

    engine: str = "coca"
    # A model name of open_clip's registry, a path of a JSON model config, or `builtin:<file>`.
    architecture: str
    weights: WeightsConfig
    has_masked_crop: bool = True
    context_scales: tuple[Annotated[float, Field(ge=1.0, le=4.0)], ...] = (1.0, 1.1, 1.2)
    # Tokens, SOT counted and, in the maximum, EOS too.
    min_length: int = Field(default=5, ge=1)
    max_length: int = Field(default=30, ge=3)
    beam: BeamConfig = BeamConfig()
    sampling: SamplingConfig = SamplingConfig()
    # Bound on the keys and values of image tokens and of prefixes, an eighth of it put by for temporaries; prefixes are
    # decoded in chunks below it. Halved it costs time, and results change by float rounding at most, which is why it
    # belongs to the identity. Where those of the image tokens of one crop kind exceed it, it does not hold.
    cache_bytes: int = Field(default=2 * 2**30, ge=2**20)
    # Successive images of a shard are captioned together while their crops number no more than this; at 1 each goes
    # alone, and its captions do not depend, in the last bits of a probability, on its neighbours in the shard.
    crops_together: int = Field(default=1, ge=1)
    # None: nobody listens, and the columns `caption_score`, `listener` and `truth` are null.
    listening: ListeningConfig | None = None
    options: dict[str, JsonValue] = Field(default_factory=dict, description="Settings of a plug-in engine.")

    @model_validator(mode="after")
    def _has_crops(self) -> Self:
        if not self.has_masked_crop and not self.context_scales:
            raise ValueError("captions need at least one crop kind: set has_masked_crop or context_scales")
        if self.min_length > self.max_length:
            raise ValueError(f"min_length {self.min_length} exceeds max_length {self.max_length}")
        return self

    @model_validator(mode="after")
    def _listens_to_its_crops(self) -> Self:
        kinds = self.crop_kinds()
        unknown = [crop for crop in self.listening.crops if crop not in kinds] if self.listening else []
        if unknown:
            raise ValueError(f"listening.crops has {unknown[0]!r}, not captioned; there are {', '.join(kinds)}")
        return self

    def crop_kinds(self) -> dict[str, float | None]:
        """Return the crop kinds in the tables' order, from name to scale; None is the masked crop."""
        masked: dict[str, float | None] = {CROP_MASKED: None} if self.has_masked_crop else {}
        return {**masked, **{crop_context(scale): scale for scale in self.context_scales}}

    @model_serializer(mode="wrap")
    def _without_silence(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_none(handler(self), "listening")


class FilterConfig(FrozenModel):
    """Distinctiveness-based filtering (paper section 3.3; method page section 4)."""

    engine: str = "clip"
    architecture: str
    weights: WeightsConfig
    # Keeps a candidate whose distinctiveness is strictly above.
    tau: NonNegative = 1.0
    # What it must meet besides, such as `correctness > 0.2`; all of them hold. More of them, fewer expressions a mask.
    keep: tuple[KeepCondition, ...] = ()
    context_scale: float = Field(default=1.2, ge=1.0, le=4.0)
    # Cosines are clamped from below: a negative product would flip a ratio.
    min_score: float = Field(default=1e-4, gt=0)
    nouns: Literal["rules", "spacy"] = "rules"
    # Crops and texts a forward pass, padded to this size: rounding follows the batch's shape.
    batch_size: int = Field(default=64, ge=1)
    # From the scores to the columns `confidence` and `rank`, which `keep` may bound; None leaves them null.
    confidence: ConfidenceConfig | None = None
    options: dict[str, JsonValue] = Field(default_factory=dict, description="Settings of a plug-in engine.")

    @field_validator("keep")
    @classmethod
    def _in_one_order(cls, keep: tuple[KeepCondition, ...]) -> tuple[KeepCondition, ...]:
        # A conjunction: the same one written in another order is the same method.
        return tuple(sorted(set(keep), key=str))

    @model_serializer(mode="wrap")
    def _without_empty_keep(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        tree = without_none(handler(self), "confidence")
        # Runs from before there were conditions have the identity and the hash of those that use none.
        if not self.keep:
            tree.pop("keep", None)
        return tree


class ComputeConfig(FrozenModel):
    """What the models compute with; all of it part of the identity."""

    device: Literal["cpu", "cuda"] = "cuda"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    # Threads of one stage process on CPU. Another number may round otherwise, hence identity.
    threads: int = Field(default=1, ge=1)
    # torch.compile for towers and decoder blocks, over a few fixed shapes: minutes at the start of each actor,
    # for runs on GPUs that last hours. It needs a C++ compiler on every node.
    is_compiled: bool = False
    seed: int = Field(default=0, ge=0, lt=2**63)


class ShardsConfig(FrozenModel):
    """The size of a shard: what is in flight is what a crash costs, and a stage should stay under five minutes."""

    max_images: int = Field(default=256, ge=1)
    # Listed bytes, encoded. What the object store holds is about this, times the shards in flight.
    max_bytes: int = Field(default=256 * 2**20, ge=1)
    # Writes the encoded image into the images table, so that a trainer needs no source.
    embed_images: bool = False


class RunConfig(FrozenModel):
    """Everything a run is configured by, resolved: preset, then YAML, then `--set`.

    It ends in the run's header, so no text of it may hold a uri with credentials or a signature.
    """

    preset: str = Field(description="Name of the preset it started from; a label, no code asks for it.")
    source: SourceConfig = SourceConfig()
    images: ImagesConfig = ImagesConfig()
    masks: MasksConfig
    captions: CaptionsConfig
    filtering: FilterConfig
    # None: nothing is composed.
    composing: ComposingConfig | None = None
    compute: ComputeConfig = ComputeConfig()
    shards: ShardsConfig = ShardsConfig()
    placement: PlacementConfig = PlacementConfig()

    @model_validator(mode="before")
    @classmethod
    def _holds_no_secret(cls, tree: Any) -> Any:
        # Before any field is: an error about a value repeats the value.
        found = "; ".join(secrets_in(tree))
        if found:
            raise ValueError(found)
        return tree

    @model_validator(mode="after")
    def _gpus_match_device(self) -> Self:
        pools = self.model_pools()
        if self.compute.device == "cuda":
            without = [name for name, pool in pools.items() if pool.num_gpus == 0]
            if without:
                raise ValueError(
                    f"compute.device=cuda, but placement.{without[0]}.num_gpus=0: set it above 0, or compute.device=cpu"
                )
        return self

    @model_validator(mode="after")
    def _a_listener_is_there_where_one_is_read(self) -> Self:
        if self.captions.listening is not None:
            return self
        confidence = self.filtering.confidence
        if confidence is not None and confidence.needs_listener:
            raise ValueError(
                "filtering.confidence weighs what a listener says, and captions.listening is not set: set it, or the "
                "weights listener, truth, relative_truth and consensus to 0"
            )
        posterior = None if self.composing is None else self.composing.posterior
        if posterior is not None and posterior.needs_listener:
            raise ValueError(
                "composing.posterior.counts=probability reads what a listener says, and captions.listening is not set: "
                "set it, or counts=draws with the weights that belong to it"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_composing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_none(handler(self), "composing")

    def model_pools(self) -> dict[str, PoolConfig]:
        """Return the pools that hold models under the placement's mode, by their name in the config."""
        if self.placement.mode == "fused":
            return {"fused": self.placement.fused}
        return {name: getattr(self.placement, name) for name in ("propose", "caption", "filter")}

    def method(self) -> dict[str, Any]:
        """Return the part of the tree that decides the tables' bytes, as plain JSON values."""
        # The same bucket may answer under another name: only where it is, not what is in it.
        return self.model_dump(mode="json", exclude={"preset": True, "placement": True, "source": {"endpoint_url"}})
