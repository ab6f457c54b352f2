"""Sections of `config.py`, one a stage, for most rooms. A default is part of a run's identity; docs show comments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import EXTENSIONS
from pseudoris.schemas.card_settings import OR_AUTO
from pseudoris.schemas.frozen import FrozenModel, NonNegative, UnitInterval
from pseudoris.schemas.named_files import TextBankConfig
from pseudoris.schemas.shard import CROP_MASKED, DecodingRule, crop_context

Options = TypeVar("Options", bound=FrozenModel)
# Larger batch sizes and caption lengths are refused, so that a typing error is found before models load.
MAX_BATCH: Final = 65_536
MAX_TOKENS: Final = 4_096


class WeightsConfig(FrozenModel):
    """Where a model's weights come from."""

    # A local path, an fsspec url, `builtin:<file>` for weights shipped in the package, `open_clip:<model>/<tag>` for a
    # hub tag, or `random:<seed>` for untrained weights. Engines that read models of transformers take a model folder:
    # its path, or `OWNER/NAME@COMMIT`. Its sha256 is the one that `pseudoris weights check` shows.
    uri: str = Field(min_length=1)
    # A file of weights with another sha256 is refused before anything runs. None accepts any file.
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    # This command fetches the weights. The error for a missing file shows it.
    how_to_get: str = ""


class SourceConfig(FrozenModel):
    """How SOURCE is read."""

    # auto: `.tar` is a WebDataset, `.parquet` a table; everything else is listed as image files.
    format: Literal["auto", "files", "webdataset", "parquet"] = "auto"
    # In lower case. Files with other extensions are not listed, so that the user's notes do not count as broken images;
    # they are counted. With the plug-in of `images.decoder_plugins` the default also lists HEIC.
    extensions: tuple[str, ...] = EXTENSIONS
    # In a Parquet table, the first of these columns that exists is read as encoded images. Bytes are preferred to uris.
    bytes_columns: tuple[str, ...] = ("bytes", "image_bytes", "image")
    # In a Parquet table without such a column, the first of these columns that exists gives the uris of the images.
    uri_columns: tuple[str, ...] = ("uri", "url", "path")
    # Folder that relative uris start from and that local uris must stay in: a table is untrusted input. None is the
    # table's own folder. It must be absolute: a relative path is another folder in another process.
    uri_root: str | None = None
    # S3 requests go to this endpoint; None is AWS. Credentials come from the environment only.
    endpoint_url: str | None = Field(default=None, pattern=r"^https?://")
    # True declares that you pay for S3 requests and traffic. A requester-pays bucket refuses all other requests.
    requester_pays: bool = False
    # Names of fields that urls may have in their queries. Name only fields whose values are no secret: urls are written
    # to the run's header. Fields that choose a version, and `download`, are always allowed.
    allowed_query: tuple[str, ...] = Field(default=(), exclude_if=lambda names: not names)

    @model_validator(mode="after")
    def _has_absolute_root(self) -> Self:
        path = (self.uri_root or "/").removeprefix("file://").removeprefix("local://")
        if "://" not in path and not Path(path).is_absolute():
            raise ValueError(f"uri_root {self.uri_root!r} is relative: give an absolute path, or an fsspec url")
        return self


# No image may have more pixels, whatever `images.max_pixels` says.
MAX_PIXELS: Final = 2**34


class ImagesConfig(FrozenModel):
    """Limits of decoding, beyond which an image is quarantined, and how deep samples become 8 bits."""

    # A 12,000 x 8,000 photograph passes. Raised, memory grows: every stage holds 3 bytes per pixel, and decoding and
    # cropping briefly a few more. Proposing peaks near 35 bytes per pixel (measured: 24 megapixels, `tiny`), plus an
    # eighth for each candidate.
    max_pixels: int = Field(default=100_000_000, ge=1, le=MAX_PIXELS)
    # An image has at most this many encoded bytes. This bounds the share of the object store that one image takes.
    max_bytes: int = Field(default=256 * 2**20, ge=1, le=2**40)
    # A decoder that takes longer than this for an image is killed. Raise it for gigapixel TIFFs on slow disks.
    decoder_timeout_s: float = Field(default=60.0, gt=0, le=86_400)
    # Address space that the proving process may add after its start. Below about 4 bytes for each of `max_pixels`,
    # large valid images are quarantined.
    decoder_memory_bytes: int = Field(default=4 * 2**30, ge=2**28, le=2**44)
    # Modules that register further formats with Pillow when imported. `pillow_heif.HeifImagePlugin` (of the extra
    # `pseudoris[heif]`) reads HEIC, and adds its names to the default of `source.extensions`. Install them on every
    # node. None by default, because each is more code that reads untrusted bytes.
    decoder_plugins: tuple[str, ...] = ()
    # Grey of 16 bits becomes 8 bits. auto: the least of 8, 10, 12, 14 and 16 bits that hold the picture's values. A
    # number: these bits for every picture, for a series whose pictures must not differ in brightness. stored: all 16
    # bits, as 0.6.0 did: pictures of 10 or 12 bits are black to SAM.
    bits: Literal["auto", "stored"] | Annotated[int, Field(ge=8, le=16)] = Field(
        default="stored", exclude_if=lambda bits: bits == "stored"
    )
    # Signed, floating-point and 32-bit grey (CT, depth, radar) is mapped linearly: the first of these values becomes
    # black, the second white. None: such images are quarantined, because a file does not state the range.
    window: tuple[float, float] | None = Field(default=None, exclude_if=lambda window: window is None)
    # An image with a side below this is quarantined as `too_small`. 0 takes icons too.
    min_side: int = Field(default=0, ge=0, le=2**31, exclude_if=lambda side: not side)
    # The perceptual hash of each image is stored (column `phash`): near copies are counted, and `combine --unique
    # similar` reads no picture again. Readers take half more CPU time (measured: docs/records/appendix/exclusions.md).
    phash: bool = Field(default=False, exclude_if=lambda phash: not phash)

    @field_validator("bits", mode="before")
    @classmethod
    def _is_a_depth(cls, bits: object) -> object:
        if bits in ("auto", "stored") or (type(bits) is int and 8 <= bits <= 16):
            return bits
        raise ValueError("give auto, stored, or a number of bits from 8 to 16")

    @field_validator("window", mode="wrap")
    @classmethod
    def _has_two_ends(cls, given: object, read: ValidatorFunctionWrapHandler) -> tuple[float, float] | None:
        if given is not None and not (isinstance(given, list | tuple) and len(given) == 2):
            raise ValueError("give [LOW, HIGH]: what becomes black, and what becomes white")
        window: tuple[float, float] | None = read(given)
        if window is not None and not window[0] < window[1]:
            raise ValueError(f"window {list(window)} is empty: give [LOW, HIGH] with LOW below HIGH")
        return window

    def hashed(self, *, is_needed: bool = True) -> Self:
        """Return them with perceptual hashes, if these are needed though no table shall have them."""
        return self.model_copy(update={"phash": self.phash or is_needed})

    def to_show(self, plugins: tuple[str, ...] = ()) -> ImagesConfig:
        """Return default limits, for a run that may be a stranger's, with what decides its pixels, and `plugins`."""
        return ImagesConfig(decoder_plugins=plugins, bits=self.bits, window=self.window)


class ReductionConfig(FrozenModel):
    """How over-segmented proposals become objects if there is no instance prior (method page, section 1)."""

    # A mask is dropped as a duplicate if its IoU with a better mask is above this.
    mask_nms_iou: UnitInterval = 0.7
    # A mask below this share of the image's area is dropped as speckle.
    min_area: UnitInterval = 0.001
    # A mask above this share of the image's area is dropped as background.
    max_area: UnitInterval = 0.8
    # A mask is a part of another mask if at least this share of it lies in the other, and `max_part_area` holds too.
    min_inside: UnitInterval = 0.9
    # A part has at most this share of the other mask's area. With 1.0, every mask that lies in another is dropped.
    max_part_area: UnitInterval = 0.5


class PriorConfig(FrozenModel):
    """An instance detector's opinion of what the objects are (the paper: CutLER, score > 0.5)."""

    # A run with `unset` is refused before it starts: the error says how to choose (`docs/guides/masks.md`).
    kind: Literal["none", "table", "torchvision", "unset"] = "none"
    # This is the path of a file of instances (table: Parquet or COCO JSON), or of a local checkpoint (torchvision).
    path: str | None = None
    # Instances with at least this score count.
    min_score: UnitInterval = 0.5
    # An instance chooses a SAM mask. intersection: the one that covers most of it (paper). iou: the highest IoU (ours).
    match: Literal["intersection", "iou"] = "intersection"
    # A mask that several instances choose. merge: it is kept once (ours). keep: once for each instance, as in the
    # authors' scripts; such twins compete with each other, so their expressions have a distinctiveness of at most 1.
    duplicates: Literal["merge", "keep"] = "merge"
    # An instance that touches no mask. drop: it has no mask (ours). first_mask: it takes the generator's first mask, as
    # in the authors' scripts, where the maximum of equal overlaps is the first.
    untouched: Literal["drop", "first_mask"] = "drop"

    @model_validator(mode="after")
    def _has_path(self) -> Self:
        if self.kind in ("table", "torchvision") and not self.path:
            raise ValueError(f"prior.kind={self.kind} needs prior.path: the table or checkpoint to read")
        return self

    def check_is_set(self) -> None:
        """Accept every kind except `unset`.

        Raises:
            ConfigError: The kind is `unset`; the message says how to make a prior, and how to go without one.
        """
        if self.kind == "unset":
            raise ConfigError(
                "masks.prior.kind is unset: say what the objects are. Make a table of instances with a detector (the "
                "paper: CutLER; docs/guides/masks.md has the recipe) and give it by --set masks.prior.kind=table "
                "--set masks.prior.path=FILE, or reduce SAM's masks by rules: --set masks.prior.kind=none"
            )


class MasksConfig(FrozenModel):
    """Mask proposal. Names and defaults are SAM's own, except `pred_iou_thresh` (the paper: 0.5)."""

    # sam; sam2, sam3 or sam3_concepts, which open a model folder; ready (docs/guides/masks.md); or a plug-in of the
    # entry points `pseudoris.proposers`.
    engine: str = "sam"
    # vit_b, vit_l and vit_h are segment_anything's; tiny is ours. Or the path of a `.json` file with the numbers that
    # `pseudoris.workers.checkpoints.sam_architectures` names. None for an engine whose weights say it.
    architecture: str | None = Field(default=None, min_length=1, exclude_if=lambda name: name is None)
    weights: WeightsConfig
    # A crop is prompted at the points of a square grid, with this many points on each side.
    points_per_side: int = Field(default=32, ge=1, le=1_024)
    # Prompts in a forward pass of the mask decoder; a GPU takes up to 16 times as many. What waits there for a decision
    # takes up to 128 MiB for each of this number. Lower it if memory is short. Part of the identity, because rounding
    # depends on the batch's shape. auto: by the card's memory; 64 without a GPU.
    points_per_batch: Annotated[int, Field(ge=1, le=MAX_BATCH), OR_AUTO] = 64
    # A mask is kept if the model's own estimate of its IoU (of sam3_concepts, the score) is above this.
    pred_iou_thresh: float = 0.5
    # A mask is kept if its stability is at least this: the IoU of the masks above a higher and a lower logit.
    stability_score_thresh: float = 0.95
    # `stability_score_thresh` compares the masks at this logit and at minus this logit.
    stability_score_offset: float = Field(default=1.0, ge=0)
    # If the boxes of masks overlap by more than this IoU, the mask with the best estimated IoU is kept.
    box_nms_thresh: UnitInterval = 0.7
    # SAM also sees crops of the image, in this many layers. Layer l adds 4^l crops and their cost; 0 adds none.
    crop_n_layers: int = Field(default=0, ge=0, le=4)
    # If the boxes of masks of different crops overlap by more than this IoU, the mask of the smaller crop is kept.
    crop_nms_thresh: UnitInterval = 0.7
    # Crops of the first layer overlap by this share of the image.
    crop_overlap_ratio: UnitInterval = 512 / 1500
    # Crops of layer l have `points_per_side` divided by this number to the power of l.
    crop_n_points_downscale_factor: int = Field(default=1, ge=1, le=1_024)
    # Holes and islands of fewer pixels than this are removed; 0 leaves masks as they are.
    min_mask_region_area: int = Field(default=0, ge=0, le=2**34)
    reduction: ReductionConfig = ReductionConfig()
    prior: PriorConfig = PriorConfig()
    # An engine other than sam reads these settings. docs/guides/masks.md has those of ready and sam3_concepts.
    options: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_architecture(self) -> Self:
        if self.engine == "sam" and self.architecture is None:
            raise ValueError("engine=sam needs masks.architecture: vit_b, vit_l, vit_h or tiny, or a file of numbers")
        return self

    def options_as(self, model: type[Options], example: str) -> Options:
        """Return `options` as an engine declares them; `example` is the remedy if they are not valid."""
        try:
            return model.model_validate(self.options)
        except ValidationError as error:
            first, *_ = names = list(model.model_fields)
            lines = [f"{'.'.join(map(str, item['loc'])) or first}: {item['msg']}" for item in error.errors()]
            raise ConfigError(
                f"masks.options is not valid for masks.engine={self.engine}: {'; '.join(lines)}. It takes "
                f"{', '.join(names)}: {example}"
            ) from None


class ListeningConfig(FrozenModel):
    """How the captioner scores a candidate t: log p(t | crop k), teacher-forced, for the masks k."""

    # Crop kinds that score a candidate, named as in the tables; the score is the mean of their log-probabilities. They
    # must be captioned kinds, whose crops are encoded already. Each further kind costs another pass.
    crops: tuple[str, ...] = Field(default=("context_1.2",), min_length=1)
    # The most other masks that score a candidate. If an image has more, the most similar ones do. Raised, crowded
    # images cost more.
    max_others: int = Field(default=30, ge=1, le=100_000)


class BeamConfig(FrozenModel):
    """Group beam search as open_clip does it: groups without a diversity term, so one group is computed."""

    # This many captions are kept at each step, of all groups together. 0: no beam search.
    num_beams: int = Field(default=6, ge=0, le=1_000)
    # This many groups share `num_beams` equally. All groups are the same, so only the first is computed.
    num_groups: int = Field(default=3, ge=1, le=1_000)
    # A beam's score is the sum of raw logits (logit, the authors' setting), or of log-probabilities (logprob).
    beam_score: Literal["logit", "logprob"] = "logit"
    # The score of a beam is divided by its length to this power. A larger power gives longer captions.
    length_penalty: float = 1.0
    # Whether the length that a sum is divided by counts the EOS that ended a caption. True: transformers 4.56. False:
    # the authors' transformers (4.30.2), whose beams end sooner.
    counts_eos: bool = True

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.num_beams % self.num_groups:
            raise ValueError(f"num_beams {self.num_beams} is not a multiple of num_groups {self.num_groups}")
        return self


class SamplingConfig(FrozenModel):
    """Distinctive caption sampling (paper section 3.2; method page section 3)."""

    # Top-k sampling: for each k and each kind of crop, one caption is drawn from the k most likely tokens.
    top_k: tuple[Annotated[int, Field(ge=1)], ...] = (5, 7, 9, 11, 13)
    # Nucleus sampling: for each p and each kind of crop, one caption is drawn from the likeliest tokens that sum to p.
    top_p: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.4, 0.5, 0.6, 0.7, 0.8)
    # If false, tokens are drawn from the target's own distribution: the nucleus baseline.
    is_distinctive: bool = True
    # The other masks' mean logits, times this weight, are subtracted from the target's. The paper has 1.
    others_weight: NonNegative = 1.0
    # Logits are divided by this before a draw. A larger value gives more varied captions.
    temperature: float = Field(default=1.0, gt=0)
    # A caption is contrasted with at most this many other masks.
    max_others: int = Field(default=30, ge=1, le=100_000)
    # What happens above `max_others`. no_contrast: in an image with more masks, captions are drawn from the target
    # alone (the paper, at 30 masks). nearest: the most similar other masks are averaged.
    above_max_others: Literal["no_contrast", "nearest"] = "nearest"
    # mean: all other masks have the same weight (the paper). similar: a softmax of the similarity, so that the masks
    # that are hardest to tell apart count most. In both the weights sum to `others_weight`; each is then multiplied by
    # its similarity.
    others_weighting: Literal["mean", "similar"] = "mean"
    # Whether a drawn pad token (0, "!" inside a word) ends a caption as EOS does, also below `min_length`. The authors'
    # loop takes it for padding.
    pad_ends_caption: bool = False

    @property
    def num_others(self) -> int:
        """The most other masks that a caption is contrasted with."""
        return self.max_others if self.is_distinctive else 0


class CaptionsConfig(FrozenModel):
    """Candidate captions for each mask: crops, beam search and sampling."""

    # coca; vlm, a vision-language model of one's own (docs/guides/vlm.md); or a plug-in of the entry points
    # `pseudoris.captioners`.
    engine: str = "coca"
    # A model name from open_clip's registry, the path of a JSON model config, or `builtin:<file>`. None for an engine
    # whose weights say it.
    architecture: str | None = Field(default=None, exclude_if=lambda name: name is None)
    weights: WeightsConfig
    # If true, a crop of the mask's box is captioned in which everything but the mask is painted over.
    has_masked_crop: bool = True
    # For each factor a crop is captioned that shows the mask's box, enlarged by the factor, with its surroundings.
    context_scales: tuple[Annotated[float, Field(ge=1.0, le=4.0)], ...] = (1.0, 1.1, 1.2)
    # Whether crops are resized with antialiasing (ours). The authors' torchvision resizes tensors without it, so fine
    # texture of large objects becomes noise.
    has_antialiasing: bool = True
    # A caption has at least this many tokens, the start token (SOT) included.
    min_length: int = Field(default=5, ge=1, le=MAX_TOKENS)
    # A caption has at most this many tokens, the start and end tokens (SOT, EOS) included.
    max_length: int = Field(default=30, ge=3, le=MAX_TOKENS)
    beam: BeamConfig = BeamConfig()
    sampling: SamplingConfig = SamplingConfig()
    # Bound on the cached keys and values of image tokens and prefixes. An eighth is kept for temporaries; prefixes are
    # decoded in chunks that fit. A lower bound costs time. It changes results by float rounding only, so it is part of
    # the identity; in fixed shapes on a GPU only the number of slots is. The bound is exceeded if the image tokens of
    # one crop kind alone need more. auto: by the card's memory; 2 GiB without a GPU.
    cache_bytes: Annotated[int, Field(ge=2**20, le=2**44), OR_AUTO] = 2 * 2**30
    # Successive images of a shard are captioned together up to this number of crops. At 1 the tree captions each image
    # alone; above 1 the last bits of a probability depend there on the neighbours in the shard. In fixed shapes no
    # neighbour changes a bit (not yet run on a GPU): 1 is 640 there. auto: 640 in fixed shapes, else 1.
    crops_together: Annotated[int, Field(ge=1, le=MAX_BATCH), OR_AUTO] = 1
    # Slots of fixed shapes, each for a prefix under a crop; without sampling, 64 for each search. More fill a GPU
    # better. None: as many as `cache_bytes` has room for; a run on a GPU keeps the number that it began with.
    slots: int | None = Field(default=None, ge=64, le=8192, multiple_of=64, exclude_if=lambda slots: slots is None)
    # What decodes captions of coca: `static`, many images in fixed shapes, or `tree`, over a prefix tree. `auto` is the
    # tree on a CPU, and on a GPU where the proof of fixed shapes fails. A run keeps what `auto` chose as it began; a
    # card that fails the proof continues it by the tree with --allow-mixed. Another setting is another run.
    decoder: Literal["auto", "static", "tree"] = Field(default="auto", exclude_if=lambda name: name == "auto")
    # So many captions are drawn of the whole image besides, by the sampling rules in turn, where it has a mask. The
    # composer reads them: what they name may have no mask. Headers omit 0, so that older runs keep their hash.
    whole_picture: int = Field(default=0, ge=0, le=1_000, exclude_if=lambda number: number == 0)
    # With None, no listener scores captions: the columns `caption_score`, `listener` and `truth` are null.
    listening: ListeningConfig | None = None
    # An engine other than coca reads these settings. docs/guides/vlm.md has those of vlm.
    options: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_crops(self) -> Self:
        if self.engine == "coca" and self.architecture is None:
            raise ValueError("engine=coca needs captions.architecture, such as coca_ViT-L-14")
        if not self.has_masked_crop and not self.context_scales:
            raise ValueError("captions need at least one crop kind: set has_masked_crop=true or give context_scales")
        if self.whole_picture and not (self.sampling.top_k or self.sampling.top_p):
            raise ValueError(
                f"whole_picture={self.whole_picture} draws by sampling rules, and there is none: set sampling.top_p"
            )
        if self.min_length > self.max_length:
            raise ValueError(f"min_length {self.min_length} exceeds max_length {self.max_length}")
        kinds = self.crop_kinds()
        unknown = [crop for crop in self.listening.crops if crop not in kinds] if self.listening else []
        if unknown:
            raise ValueError(
                f"listening.crops has {unknown[0]!r}, which is not captioned; choose from {', '.join(kinds)}"
            )
        return self

    def crop_kinds(self) -> dict[str, float | None]:
        """Return the scale of each crop kind by its name, in the tables' order; the masked crop has the scale None."""
        masked: dict[str, float | None] = {CROP_MASKED: None} if self.has_masked_crop else {}
        return {**masked, **{crop_context(scale): scale for scale in self.context_scales}}

    def decoding_rules(self) -> tuple[DecodingRule, ...]:
        """Return the rules in the order of the tables: beam, top-k ascending, top-p ascending."""
        return (
            *((DecodingRule("beam"),) if self.beam.num_beams else ()),
            *(DecodingRule("top_k", top_k=k) for k in sorted(self.sampling.top_k)),
            *(DecodingRule("top_p", top_p=p) for p in sorted(self.sampling.top_p)),
        )


ComposedKind = Literal["attribute", "position", "relation", "group", "none"]


class ComposingConfig(FrozenModel):
    """What is composed, and how sure the composer must be. The composer runs after the filter stage and loads no model.

    It needs a posterior that was fitted for the run's models, in the file of `filtering.fitted`. The defaults were
    chosen on development scenes (docs/guides/composing.md).
    """

    # `group` refers to several masks, `none` to no mask: some trainers cannot read these. `attribute` is a phrase
    # without a position, where it suffices.
    kinds: Annotated[tuple[ComposedKind, ...], AfterValidator(lambda kinds: tuple(sorted(set(kinds))))] = Field(
        default=("position", "relation"), min_length=1
    )
    # At most this many composed expressions refer to a single mask, all kinds together.
    max_per_mask: int = Field(default=2, ge=1, le=1_000)
    # A mask's likeliest expression is written if its probability of being right is above this. Lower it to get more.
    min_first: UnitInterval = 0.63
    # Any other expression is written if its probability of being right is above this, also of a group or of no target
    # where `min_group_or_none` is null.
    min_further: UnitInterval = 0.9
    # An expression of a group or of no target is written if its probability of being right is above this; null:
    # `min_further`. Headers omit null, so that older runs keep their hash.
    min_group_or_none: UnitInterval | None = Field(default=None, exclude_if=lambda bound: bound is None)
    # A mask gets at most this many expressions of one form: words alone, an end of a row, a side, a rank, a relation.
    max_per_form: int = Field(default=2, ge=1, le=1_000)
    # Texts of what may be absent, for easy absences: up to two per image, which share no word with what was drawn for
    # it. The seed and the image's id decide which. None: only near absences, which differ in a word from what is true.
    # It is then left out, so that older runs keep their hash.
    bank: TextBankConfig | None = Field(default=None, exclude_if=lambda bank: bank is None)

    # How places are said. With `photographs` a rival of what is "on the left" may be up to the middle, as viewers see
    # it, and what stands on the ground is "in front" and not "at the bottom". Headers omit `drawings`, so that older
    # runs keep their hash.
    places: Literal["drawings", "photographs"] = Field(
        default="drawings", exclude_if=lambda places: places == "drawings"
    )
    # Whether a word is left out that every rival of the noun has: "the standing man" of three standing men. Headers
    # omit it where it is unset.
    has_needed_words: bool = Field(default=False, exclude_if=lambda is_set: not is_set)
    # Whether the column `num_too_small` is filled and read: the more masks `masks.reduction.min_area` dropped, the
    # likelier is a thing without a mask. Null with an instance prior, which drops none. Headers omit it where it is
    # unset.
    has_too_small: bool = Field(default=False, exclude_if=lambda is_set: not is_set)
    # Whether colour words are compared with the pixels of each mask, whose shares the table of masks then has: a colour
    # that they deny is not said, and rivals that lack it count less. Headers omit it where it is unset.
    has_colours: bool = Field(default=False, exclude_if=lambda is_set: not is_set)

    @property
    def least_of_others(self) -> float:
        """The bound of expressions of a group or of no target."""
        return self.min_further if self.min_group_or_none is None else self.min_group_or_none

    @model_validator(mode="after")
    def _needs_more_for_more(self) -> Self:
        if self.min_further < self.min_first:
            raise ValueError(
                f"min_further {self.min_further} is below min_first {self.min_first}: set it to at least min_first"
            )
        return self


class GroundingCheckConfig(FrozenModel):
    """The second opinion of a run of 0.5.0 or 0.6.0, on which of the image's masks each caption refers to."""

    # The kind of the second model: clip, vlm, or a plug-in.
    engine: str = "clip"
    # The architecture of a CLIP.
    architecture: str | None = None
    weights: WeightsConfig
    # Cosines of a CLIP were divided by it before the softmax that gave the shares.
    temperature: float = Field(default=0.01, gt=0)
    # Settings of other engines than clip.
    options: dict[str, JsonValue] = Field(default_factory=dict)
