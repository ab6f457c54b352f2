"""Values that `calibrate` fitted: how scores become `confidence` and `weight`, and the composer. Used by most rooms.

Fitted values stand in a YAML file that `filtering.fitted.uri` names, as `pseudoris calibrate --to` writes it. A file is
read once, when a config is resolved. A run's header holds its values: nothing that reads a run needs or opens it.

`confidence` says how likely a candidate is right. It ranks well but may be too sure. `weight` corrects
that by a line in its log-odds, fitted to labels. `verify` computes both again, so the formulas here must not change.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from typing import Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt
import yaml
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass as validated_dataclass

from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.yaml_text import fault_of, parse_yaml
from pseudoris.schemas.frozen import FrozenModel, NonNegative, Sha256, UnitInterval
from pseudoris.schemas.named_files import NamedFile, read_named


class ConfidenceConfig(FrozenModel):
    """Weights of a logistic regression from a candidate's scores to the probability that it is right.

    `pseudoris.schemas.fitted.features` defines what each weight multiplies. Fitted weights are valid only for the
    models that they were fitted with. For other models fit them with `pseudoris calibrate` (`docs/guides/listener.md`).
    """

    bias: float = 0.0
    # The next four weights need `captions.listening`.
    listener: float = 0.0
    truth: float = 0.0
    relative_truth: float = 0.0
    consensus: float = 0.0
    vote: float = 0.0
    log_uniqueness: float = 0.0
    log_distinctiveness: float = 0.0
    correctness: float = 0.0
    log_count: float = 0.0
    num_words: float = 0.0
    # This weight needs an older run's `grounding_check`. Headers omit it if it is 0, so that runs keep their hash.
    grounding: float = Field(default=0.0, exclude_if=lambda weight: weight == 0.0)
    # A mask alone in its image has no rival: this stands for the log uniqueness and log distinctiveness of its
    # captions. 0 is neither for nor against them; 1 is the best possible.
    lone_log_ratio: float = Field(default=1.0, ge=-1, le=1)

    @property
    def needs_listener(self) -> bool:
        """Whether a weight reads scores of the listener."""
        return any((self.listener, self.truth, self.relative_truth, self.consensus))


class WeightLine(FrozenModel):
    """The probability is logistic(bias + slope · log-odds of confidence); the defaults leave confidence as it is."""

    bias: float = 0.0
    # A slope below 1 corrects confidences that are too extreme, above 1 too cautious ones. At 0 all weights are equal.
    slope: float = Field(default=1.0, ge=0)


class PairWeightConfig(FrozenModel):
    """How `weight` follows from `confidence`. Fitted lines are valid only for the models they were fitted with.

    An expression without a confidence, such as a human's, has the weight 1.
    """

    # The captioner's expressions, whose confidence is fitted, get their weight by this line. With None it is 1.
    drawn: WeightLine | None = None
    # Composed expressions, whose confidence is the posterior, get their weight by this line. With None it is 1.
    composed: WeightLine | None = None


# A candidate counts as evidence by the number of its draws, or by its probability under the captioner.
Counted = Literal["draws", "probability"]


class NounRelations(FrozenModel):
    """What a run's captions say of its nouns (`pseudoris calibrate --composer` learns it)."""

    # The nouns of a group name the same thing. The first one is the most frequent, and composed texts use it.
    same: tuple[tuple[str, ...], ...] = ()
    # Maps a wider name to its direct narrower names, as `animal` to `dog`. A group of `same` has its first name here.
    wider: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _make_sense(self) -> Self:
        names = [name for group in self.same for name in group]
        if len(set(names)) < len(names) or not all(self.wider.values()):
            raise ValueError("a name is of one group of `same`, and a name of `wider` covers others")
        if ({*names} - {*self.first.values()}) & {*self.wider, *chain.from_iterable(self.wider.values())}:
            raise ValueError("`wider` names a thing by the first of its names in `same`")
        try:
            TopologicalSorter(self.wider).prepare()
        except CycleError as error:
            raise ValueError(f"names of `wider` cover each other: {', '.join(error.args[1])}") from error
        return self

    @cached_property
    def covered(self) -> Mapping[str, frozenset[str]]:
        """All names that each wider name is true of, through narrower ones too."""
        found: dict[str, frozenset[str]] = {}
        for name in TopologicalSorter(self.wider).static_order():
            own = self.wider.get(name, ())
            found[name] = frozenset(own).union(*(found[each] for each in own))
        return {name: found[name] for name in self.wider}

    @cached_property
    def first(self) -> Mapping[str, str]:
        """The most said name of the thing that each name names."""
        return {name: names[0] for names in self.same for name in names}

    @cached_property
    def truth(self) -> Mapping[str, Mapping[str, float]]:
        """How likely a name is true of a thing, by the name that the thing has; of other names only of their own.

        A wider name is true of what it covers. What has the wider name alone may be each of these.
        """
        found: defaultdict[str, dict[str, float]] = defaultdict(dict)
        for wide, names in self.covered.items():
            found[wide] |= dict.fromkeys((wide, *names), 1.0)
            for name in names:
                found[name] |= {wide: 0.5, name: 1.0}
        return {**found, **{name: {**found[first], first: 1.0} for name, first in self.first.items()}}


class PosteriorConfig(FrozenModel):
    """How likely an expression is right, given the captions of all masks of its image.

    `pseudoris.workers.composing.posterior` defines what each weight multiplies. None has a default: weights depend on
    the models, and on how captions are drawn (`python -m evidence.experiments.composing.posterior_fit`).
    """

    # `probability` reads the column `caption_score`, so it needs `captions.listening`.
    counts: Counted
    # P(noun), a softmax over the nouns drawn for a mask. Weights of the log of the noun's share, and of its
    # correctness. With `has_kinds` noun_share multiplies the log-odds of the draws for a name beside those against it.
    noun_share: NonNegative
    noun_correctness: NonNegative
    # Log-odds of P(word). Weights of log(the word's share / the share of the words that replace it), and of the log of
    # both together.
    word_bias: float
    word_against: NonNegative
    word_share: NonNegative
    # Log-odds of P(object): the mask is one object. Weights of SAM's two scores as log-odds, and of the mask's share
    # inside another mask.
    object_bias: float
    object_predicted_iou: float
    object_stability: float
    object_overlap: float
    # By how much a mask inside a larger one of the same noun, its part or twin, is less likely an object: 1 rules it
    # out. Unlike `object_overlap` it leaves a shirt on a man an object. Left out of a run's header where it is 0, so
    # that older runs keep their hash.
    object_nested: UnitInterval = Field(default=0.0, exclude_if=lambda weight: weight == 0.0)
    # With None, different nouns name different things. Headers omit it, so that older runs keep their hash.
    names: NounRelations | None = Field(default=None, exclude_if=lambda names: names is None)
    # Words rule each other out that fill one slot of a thing with other values (`primitives.attribute_slots`), not
    # those that no caption joins; words that say the same count together. Headers omit it where it is unset.
    has_slots: bool = Field(default=False, exclude_if=lambda is_set: not is_set)
    # The share of what replaces a word counts as at least this. So a word that was drawn once is not certain where
    # nothing opposes it. Headers omit the default.
    least_opposed: UnitInterval = Field(default=1e-3, gt=0, exclude_if=lambda share: share == 1e-3)
    # Names of one kind of thing count together, by the table of `primitives.kinds`. Headers omit it where it is unset.
    has_kinds: bool = Field(default=False, exclude_if=lambda is_set: not is_set)
    # Log-odds of P(name) where as many draws speak for it as against it, with `has_kinds`. Headers omit it if it is 0.
    noun_bias: float = Field(default=0.0, exclude_if=lambda weight: weight == 0.0)
    # By how much captions that mention several of a kind ("in a crowd of people") say that one has no mask. Needs
    # `has_kinds`. Headers omit it where it is 0.
    hidden: NonNegative = Field(default=0.0, exclude_if=lambda weight: weight == 0.0)
    # A bare noun may also fit an object without a mask or with a wrong noun. This weight says how much that counts.
    unseen: UnitInterval

    def true_of(self, noun: str) -> Mapping[str, float]:
        """Return how likely a noun is true of a thing, by the name that the thing has."""
        return {noun: 1.0} if self.names is None else self.names.truth.get(noun, {noun: 1.0})


@validated_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
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

    def other_models(self, weights: Mapping[str, str]) -> list[str]:
        """Return the stages that have other weights than it was fitted with; `weights` are a run's digests by stage."""
        return [name for name, digest in self.models.items() if weights.get(name, digest) != digest]

    @model_validator(mode="after")
    def _weighs_what_has_a_confidence(self) -> Self:
        if self.pair_weight is not None and self.pair_weight.drawn is not None and self.confidence is None:
            raise ValueError("pair_weight.drawn needs the weights of confidence that it was fitted with")
        return self


class FittedConfig(NamedFile):
    """A file of fitted values."""

    values: FittedValues


def read_fitted(uri: str, sha256: object = None) -> dict[str, Any]:
    """Return the tree of a `FittedConfig`, not validated: the file's digest and values.

    Raises:
        ConfigError: The file cannot be read, is not YAML, holds no keys, or has another digest than `sha256`.
    """
    remedy = "name one that is shipped or a local path; `pseudoris calibrate --to` writes one"
    data, digest = read_named("filtering.fitted", uri, sha256, remedy)
    try:
        values = parse_yaml(data.decode())
        # A file of another kind gets one error here, because it would otherwise get an error for each of its keys.
        is_other = isinstance(values, dict) and len(values) > 1 and values.keys().isdisjoint(vars(FittedValues()))
        fault = "holds no keys such as `confidence:`" if is_other or not isinstance(values, dict) else ""
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        fault = f"is not YAML ({fault_of(error)})"
    if fault:
        raise ConfigError(f"filtering.fitted: {uri} {fault}: `pseudoris calibrate --to` writes such a file")
    return {"uri": uri, "sha256": digest, "values": values}


def for_any_captioner(*, is_heard: bool, is_of_photographs: bool = False) -> dict[str, Any]:
    """Return the tree of the shipped `FittedConfig` for models that nothing was fitted to, with or without a listener.

    It holds a posterior alone, fitted to drawn scenes of four captioners, or to captions of photographs.
    """
    fitted_to = "kinds" if is_of_photographs else "any"
    return read_fitted(f"builtin:{fitted_to}-{'probability' if is_heard else 'draws'}.fitted.yaml")


Floats = npt.NDArray[np.float64]

# Probabilities are clipped to this distance from 0 and 1, where the log-odds are infinite.
_TINY: Final = 1e-12


def log_odds(probability: Floats) -> Floats:
    """Return log(p / (1 - p)), (T,) float64, finite for p in [0, 1]; NaN for NaN."""
    inside = np.clip(probability, _TINY, 1.0 - _TINY)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def logistic(odds: Floats) -> Floats:
    """Return the probability of log-odds, (T,) float64 in [0, 1]; NaN for NaN."""
    # This form of the logistic function does not overflow for a large |odds|.
    return np.asarray(np.where(odds >= 0, 1.0, np.exp(np.minimum(odds, 0.0))) / (1.0 + np.exp(-np.abs(odds))))


# Weights are rounded to this many digits, because the last bits of an exponential differ between machines.
WEIGHT_DIGITS: Final = 6


def line_weights(line: WeightLine | None, confidence: Floats) -> Floats:
    """Return the weight of each of T expressions, (T,) float64 in [0, 1]; 1 without a line or a confidence."""
    if line is None:
        return np.ones(len(confidence))
    found = logistic(line.bias + line.slope * log_odds(confidence))
    return np.asarray(np.where(np.isnan(found), 1.0, np.round(found, WEIGHT_DIGITS)))


CONFIDENCE_COLUMNS: Final = (
    *("caption_score", "listener", "truth"),
    *("uniqueness", "distinctiveness", "correctness", "count", "grounding_share"),
)
# Logs of scores are cut at these bounds, because beyond them they tell no more: a probability of 0.999 for the
# listener, a ratio of e for CLIP, a word in one of 400 candidates.
_MAX_LOG_ODDS: Final = 7.0
_MAX_LOG_RATIO: Final = 1.0
_MIN_LOG_SHARE: Final = -6.0


@dataclass(frozen=True, slots=True)
class Rated:
    """The candidates of one image, or of several.

    Attributes:
        groups: The T candidates' masks.
        texts: T.
        scores: `CONFIDENCE_COLUMNS`, (T,) float64 each, NaN where undefined.
    """

    groups: Sequence[str]
    texts: Sequence[str]
    scores: Mapping[str, Floats]


def features(rated: Rated, lone_log_ratio: float) -> dict[str, Floats]:
    """Return the feature that each weight of `ConfidenceConfig` multiplies, (T,) float64 by the weight's name.

    NaN if a score that the feature reads is missing because there is no listener or no second opinion. If there are no
    other masks, a ratio to them is undefined; `lone_log_ratio` stands for its logarithm.
    """
    # Two features are the log of a share, for the word of the candidate with the smallest share: the share of the
    # mask's draws that have the word (`vote`), and the share of its candidates' probability that has it (`consensus`).
    # A word that few of a mask's captions have is wrong more often than one that all of them have.
    among = {name: np.full(len(rated.groups), np.nan) for name in ("relative_truth", "consensus", "vote")}
    of_group: defaultdict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(rated.groups):
        of_group[group].append(row)
    for rows in of_group.values():
        words = [frozenset(rated.texts[row].split()) for row in rows]
        truth, score = rated.scores["truth"][rows], rated.scores["caption_score"][rows]
        among["vote"][rows] = _least_shares(words, rated.scores["count"][rows])
        among["relative_truth"][rows] = truth - truth.max()
        among["consensus"][rows] = _least_shares(words, np.exp(score - score.max()))
    scores, among_masks = rated.scores, {}
    for name in ("uniqueness", "distinctiveness"):
        logs = np.clip(np.log(np.maximum(scores[name], _TINY)), -_MAX_LOG_RATIO, _MAX_LOG_RATIO)
        among_masks[f"log_{name}"] = np.where(np.isnan(scores[name]), lone_log_ratio, logs)
    return {
        "listener": np.clip(log_odds(scores["listener"]), -_MAX_LOG_ODDS, _MAX_LOG_ODDS),
        "truth": scores["truth"],
        **among,
        "grounding": np.clip(log_odds(scores["grounding_share"]), -_MAX_LOG_ODDS, _MAX_LOG_ODDS),
        **among_masks,
        "correctness": scores["correctness"],
        "log_count": np.log(np.maximum(scores["count"], 1.0)),
        "num_words": np.array([len(set(text.split())) for text in rated.texts], np.float64),
    }


def confidences(rated: Rated, config: ConfidenceConfig) -> Floats:
    """Return the probability that each of T candidates is right, (T,) float64 in [0, 1]; NaN if unknown."""
    return confidence_of(features(rated, config.lone_log_ratio), config)


def confidence_of(found: Mapping[str, Floats], config: ConfidenceConfig) -> Floats:
    """Return the same probability from the candidates' `features`, at least one feature."""
    total = np.full(len(next(iter(found.values()))), config.bias, np.float64)
    # The features are summed in a fixed order, because the order changes a sum of floats.
    for name in sorted(found):
        if weight := getattr(config, name):
            total += weight * found[name]
    return logistic(total)


def ranks(confidence: Floats, groups: Sequence[str]) -> Floats:
    """Return each candidate's rank by confidence among those of its mask, (T,) float64 from 1; NaN without one.

    Equal candidates keep their order.
    """
    found = np.full(len(groups), np.nan)
    counts: dict[str, int] = {}
    for row in np.argsort(-confidence, kind="stable").tolist():
        if not np.isnan(confidence[row]):
            counts[groups[row]] = counts.get(groups[row], 0) + 1
            found[row] = counts[groups[row]]
    return found


def _least_shares(words: Sequence[frozenset[str]], weights: Floats) -> Floats:
    totals: Counter[str] = Counter()
    for said, weight in zip(words, weights.tolist(), strict=True):
        for word in sorted(said):
            totals[word] += weight
    least = np.array([min((totals[word] for word in said), default=0.0) for said in words], np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.clip(np.log(least / weights.sum()), _MIN_LOG_SHARE, 0.0))
