"""What was fitted for a set of models: weights of `confidence`, lines of `weight`, weights of the composer's posterior.

They stand in a YAML file that `filtering.fitted.uri` names, as `pseudoris calibrate --to` writes it. The file is read
once, when a config is resolved. A run's header holds the values: nothing that reads a run needs or opens the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.frozen import FrozenModel, NonNegative, UnitInterval
from pseudoris.schemas.regular_files import open_linked
from pseudoris.schemas.yaml_text import MAX_LETTERS, parse_yaml

BUILTIN: Final = "builtin:"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Weight = Annotated[float, Field(allow_inf_nan=False)]


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
    # with a rival. 0 is neither for nor against it; 1 is the best possible.
    lone_log_ratio: float = Field(default=1.0, ge=-1, le=1)

    @property
    def needs_listener(self) -> bool:
        """Whether a weight reads scores of the listener."""
        return any((self.listener, self.truth, self.relative_truth, self.consensus))


class WeightLine(FrozenModel):
    """The probability is logistic(bias + slope · log-odds of confidence); the defaults leave confidence as it is."""

    bias: float = Field(default=0.0, allow_inf_nan=False)
    # Below 1 confidence was too sure of itself, above 1 not sure enough. 0: all expressions weigh the same.
    slope: float = Field(default=1.0, ge=0, allow_inf_nan=False)


class PairWeightConfig(FrozenModel):
    """How `weight` follows from `confidence`. Fitted lines are valid only for the models they were fitted with.

    An expression without a confidence, such as a human's, has the weight 1.
    """

    # Of the captioner's expressions, by the weights of confidence. None: their weight is 1.
    drawn: WeightLine | None = None
    # Of the composer's, by its posterior. None: their weight is 1.
    composed: WeightLine | None = None


# How much a candidate counts as evidence: by how often it was drawn, or by its probability under the captioner.
Counted = Literal["draws", "probability"]


class PosteriorConfig(FrozenModel):
    """How likely an expression is right, given the captions of all masks of its image.

    `pseudoris.workers.composing.posterior` defines what each weight multiplies. None has a default: weights depend on
    the models, and on how captions are drawn (`python -m experiments.composing.posterior_fit`).
    """

    # `probability` reads `caption_score`: it needs `captions.listening`.
    counts: Counted
    # P(noun), a softmax over the nouns drawn for a mask. Weights of the log of the noun's share, and of its
    # correctness.
    noun_share: NonNegative
    noun_correctness: NonNegative
    # Log-odds of P(word). Weights of log(the word's share / the share of the words that replace it), and of the log of
    # both together.
    word_bias: _Weight
    word_against: NonNegative
    word_share: NonNegative
    # Log-odds of P(object): the mask is one object. Weights of SAM's two scores as log-odds, and of the mask's share
    # inside another mask.
    object_bias: _Weight
    object_predicted_iou: _Weight
    object_stability: _Weight
    object_overlap: _Weight
    # A bare noun may also mean an object without a mask or with a wrong noun: `unseen` weighs that risk.
    unseen: UnitInterval


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class FittedValues:
    """The content of the file; what is absent was not fitted.

    Attributes:
        models: sha256 of the weights that it was fitted with, by stage, as in a run's identity. A run with other
            weights is refused; empty means any.
        confidence: Turns scores into the columns `confidence` and `rank`. None: both are null.
        pair_weight: Turns `confidence` into the column `weight`, for a trainer. None: every weight is 1.
        posterior: Of the composer, which needs it.
    """

    models: Mapping[str, Sha256] = field(default_factory=dict)
    confidence: ConfidenceConfig | None = None
    pair_weight: PairWeightConfig | None = None
    posterior: PosteriorConfig | None = None

    @model_validator(mode="after")
    def _weighs_what_has_a_confidence(self) -> Self:
        if self.pair_weight is not None and self.pair_weight.drawn is not None and self.confidence is None:
            raise ValueError("pair_weight.drawn needs the weights of confidence that it was fitted with")
        return self


class FittedConfig(FrozenModel):
    """A file of fitted values, and what it held when the config was resolved. Making one opens no file."""

    # A local path, or `builtin:<file>` for one that is shipped beside the presets.
    uri: str = Field(min_length=1)
    # Of the file: another one is refused. If it is not given, it is filled in.
    sha256: Sha256
    values: FittedValues


def read_fitted(uri: str, sha256: object = None) -> dict[str, Any]:
    """Return the tree of a `FittedConfig`, not validated: the file's digest and values.

    Raises:
        ConfigError: The file cannot be read, is not YAML, or has another digest than `sha256`.
    """
    path = resources.files("pseudoris.schemas") / "presets" / uri.removeprefix(BUILTIN)
    try:
        with open_linked(Path(str(path) if uri.startswith(BUILTIN) else uri)) as file:
            data = file.read(MAX_LETTERS + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        remedy = "name one that is shipped or a local path; `pseudoris calibrate --to` writes one"
        raise ConfigError(f"filtering.fitted: uri {uri!r} cannot be read ({reason}): {remedy}") from None
    digest = hashlib.sha256(data).hexdigest()
    if sha256 not in (None, digest):
        raise ConfigError(
            f"filtering.fitted: {uri} has the sha256 {digest}, expected {sha256}: restore the file, or leave sha256 "
            "out to accept any"
        )
    try:
        return {"uri": uri, "sha256": digest, "values": parse_yaml(data.decode())}
    except (UnicodeDecodeError, yaml.YAMLError):
        raise ConfigError(
            f"filtering.fitted: {uri} is not YAML: `pseudoris calibrate --to` writes such a file"
        ) from None
