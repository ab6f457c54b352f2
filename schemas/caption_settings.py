"""Settings of the caption stage: CoCa, its crops, beam search, distinctive sampling; the listener and its confidence.

The listener scores the captioner's candidates again.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator

from pseudoris.schemas.frozen import FrozenModel, NonNegative
from pseudoris.schemas.shard import CROP_MASKED, crop_context
from pseudoris.schemas.source_settings import WeightsConfig

_Weight = Annotated[float, Field(allow_inf_nan=False)]


class ListeningConfig(FrozenModel):
    """How the captioner scores a candidate t: log p(t | crop k), teacher-forced, for the masks k."""

    # Crop kinds that score a candidate, named as in the tables; the score is the mean of their log-probabilities. They
    # must be captioned kinds, whose crops are encoded already. Each further kind costs another pass.
    crops: tuple[str, ...] = Field(default=("context_1.2",), min_length=1)
    # Divides the log-probabilities before the softmax over the masks. Above 1 the listener is less certain.
    temperature: float = Field(default=1.0, gt=0)
    # The most other masks that score a candidate. If an image has more, the most similar ones do. Raised, crowded
    # images cost more.
    max_others: int = Field(default=30, ge=1)
    # Only candidates whose truth is above this are scored under other masks; for the rest `listener` is 0, and scoring
    # stops as soon as that is certain. None: all candidates are scored.
    min_truth: float | None = Field(default=None, lt=0, allow_inf_nan=False)


class ConfidenceConfig(FrozenModel):
    """Weights of a logistic regression from a candidate's scores to the probability that it is right.

    `pseudoris.schemas.confidence.features` defines what each weight multiplies. Fitted weights are valid only for the
    models that they were fitted with. For other models fit them with `pseudoris calibrate` (`docs/listener.md`).
    """

    bias: _Weight = 0.0
    # These four need `captions.listening`.
    listener: _Weight = 0.0
    truth: _Weight = 0.0
    relative_truth: _Weight = 0.0
    consensus: _Weight = 0.0
    vote: _Weight = 0.0
    log_uniqueness: _Weight = 0.0
    log_distinctiveness: _Weight = 0.0
    correctness: _Weight = 0.0
    log_count: _Weight = 0.0
    num_words: _Weight = 0.0
    # What a caption of a mask alone in its image has in place of log uniqueness and log distinctiveness, which compare
    # with a rival. 0 is neither for nor against it; 1 is the best possible, as runs before this key had it.
    lone_log_ratio: float = Field(default=1.0, ge=-1, le=1)

    @property
    def needs_listener(self) -> bool:
        """Whether a weight reads scores of the listener."""
        return any((self.listener, self.truth, self.relative_truth, self.consensus))


class BeamConfig(FrozenModel):
    """Group beam search as open_clip does it: groups without a diversity term, so one group is computed."""

    num_beams: int = Field(default=6, ge=1)
    num_groups: int = Field(default=3, ge=1)
    # logit (the authors' setting) sums raw logits; logprob sums log-probabilities.
    beam_score: Literal["logit", "logprob"] = "logit"
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

    top_k: tuple[Annotated[int, Field(ge=1)], ...] = (5, 7, 9, 11, 13)
    top_p: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.4, 0.5, 0.6, 0.7, 0.8)
    # If false, tokens are drawn from the target's own distribution: the nucleus baseline.
    is_distinctive: bool = True
    # Weight of the other masks' mean logits, which are subtracted. 1 subtracts the full mean, as the paper does.
    others_weight: NonNegative = 1.0
    temperature: float = Field(default=1.0, gt=0)
    # The most other masks that a caption is contrasted with, and what happens above it. no_contrast: in an image with
    # more masks than this, captions are drawn from the target alone (the paper, at 30 masks). nearest: the most similar
    # other masks are averaged.
    max_others: int = Field(default=30, ge=1)
    above_max_others: Literal["no_contrast", "nearest"] = "nearest"
    # mean: all other masks have the same weight (the paper). similar: a softmax of the similarity, so that the masks
    # that are hardest to tell apart count most. In both the weights sum to `others_weight`; each is then multiplied by
    # its similarity.
    others_weighting: Literal["mean", "similar"] = "mean"
    # Temperature of that softmax. Raised, the weights approach the mean; lowered, the most similar mask alone counts.
    others_temperature: float = Field(default=0.2, gt=0)
    # Whether a drawn pad token (0, "!" inside a word) ends a caption as EOS does, also below `min_length`. The authors'
    # loop takes it for padding.
    pad_ends_caption: bool = False


class CaptionsConfig(FrozenModel):
    """Candidate captions for each mask: crops, beam search and sampling."""

    engine: str = "coca"
    # A model name from open_clip's registry, the path of a JSON model config, or `builtin:<file>`.
    architecture: str
    weights: WeightsConfig
    has_masked_crop: bool = True
    context_scales: tuple[Annotated[float, Field(ge=1.0, le=4.0)], ...] = (1.0, 1.1, 1.2)
    # Whether crops are resized with antialiasing (ours). The authors' torchvision resizes tensors without it, so fine
    # texture of large objects becomes noise.
    has_antialiasing: bool = True
    # In tokens. Both count SOT; `max_length` counts EOS too.
    min_length: int = Field(default=5, ge=1)
    max_length: int = Field(default=30, ge=3)
    beam: BeamConfig = BeamConfig()
    sampling: SamplingConfig = SamplingConfig()
    # Bound on the cached keys and values of image tokens and prefixes. An eighth is kept for temporaries; prefixes are
    # decoded in chunks that fit. A lower bound costs time. It changes results by float rounding only, so it is part of
    # the identity. The bound is exceeded if the image tokens of one crop kind alone need more.
    cache_bytes: int = Field(default=2 * 2**30, ge=2**20)
    # Successive images of a shard are captioned together up to this number of crops. At 1 each image is captioned
    # alone. Above 1 the last bits of a probability depend on the neighbours in the shard.
    crops_together: int = Field(default=1, ge=1)
    # None: no listener; the columns `caption_score`, `listener` and `truth` are null.
    listening: ListeningConfig | None = None
    options: dict[str, JsonValue] = Field(default_factory=dict, description="Settings of a plug-in engine.")

    @model_validator(mode="after")
    def _has_crops(self) -> Self:
        if not self.has_masked_crop and not self.context_scales:
            raise ValueError("captions need at least one crop kind: set has_masked_crop=true or give context_scales")
        if self.min_length > self.max_length:
            raise ValueError(f"min_length {self.min_length} exceeds max_length {self.max_length}")
        return self

    @model_validator(mode="after")
    def _listens_to_its_crops(self) -> Self:
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
