"""What a run has really read to compute: weights, ready masks, instances, each with the digest that is its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from schemas.config import MasksConfig, SamArchitecture
from schemas.run import RunHeader
from store.card_texts import BUILTIN, PUBLISHED, RANDOM, Statement

# By stage of the identity, the part of the configuration that names its engine, and the stage's title.
_STAGES: Final = {
    "propose": ("masks", "mask proposal"),
    "caption": ("captions", "captions"),
    "filter": ("filtering", "scores and filter"),
}
# Engines of this package that read `weights.uri`; what another one reads, it alone knows.
_OWN: Final = frozenset({"sam", "coca", "clip"})
_READY: Final = "ready"


@dataclass(frozen=True, slots=True)
class UsedModel:
    """One thing that was read to compute with.

    Attributes:
        title: What for.
        engine: That read it.
        architecture: Empty where it is not known.
        thing: What was read: `weights`, `masks`, `instances`.
        uri: Where it was read; None where the engine alone knows.
        digest: Of the identity or the configuration, as a cell of the card says it; None where there is none.
        statements: What is known of it; nothing for what its user has made.
    """

    title: str
    engine: str
    architecture: str
    thing: str
    uri: str | None
    digest: str | None
    statements: tuple[Statement, ...] = ()


def used_models(header: RunHeader) -> list[UsedModel]:
    """Return what the run of `header` has read, stage by stage; nothing of an import."""
    return [used for stage, digest in header.identity.weights.items() for used in _of_stage(header, stage, digest)]


def _of_stage(header: RunHeader, stage: str, digest: str) -> Iterator[UsedModel]:
    section, title = _STAGES.get(stage, (None, stage))
    settings = getattr(header.config, section) if section else None
    engine = settings.engine if settings else stage
    if engine == _READY and isinstance(settings, MasksConfig):
        # The identity has a digest of the folder's name, which says nothing of what lies in it.
        folder = str(settings.options.get("folder", ""))
        yield UsedModel(title, engine, "", "masks", folder, None)
        yield from _prior(settings)
        return
    if settings is None or engine not in _OWN:
        yield UsedModel(title, engine, "", "weights", None, f"`{digest}`, as the engine has it")
        return
    uri = settings.weights.uri
    own: str | None = f"`{digest}`"
    priors = list(_prior(settings)) if isinstance(settings, MasksConfig) else []
    if priors:
        # The identity has one digest of both files; the file's own is known where the configuration demanded it.
        own = f"`{settings.weights.sha256}`" if settings.weights.sha256 else None
    yield UsedModel(title, engine, _named(settings.architecture), "weights", uri, own, _statements(engine, uri))
    if priors:
        (prior,) = priors
        both = f"{title} and {prior.title}"
        yield prior
        yield UsedModel(both, "", "", "", None, f"`{digest}`, of the two files' digests")
    if stage == "filter" and settings.nouns == "spacy":
        yield UsedModel("head nouns", "spacy", "", "weights", None, None)


def _prior(masks: MasksConfig) -> Iterator[UsedModel]:
    prior = masks.prior
    if prior.kind == "none" or prior.path is None:
        return
    thing = "instances" if prior.kind == "table" else "weights"
    yield UsedModel("instance prior", prior.kind, "", thing, prior.path, None)


def _named(architecture: SamArchitecture | str) -> str:
    if isinstance(architecture, str):
        return architecture
    sizes = f"{architecture.encoder_depth} blocks of {architecture.encoder_width}, {architecture.image_size} px"
    return f"ViT, {sizes}"


def _statements(engine: str, uri: str) -> tuple[Statement, ...]:
    """Return what is known of a model of ours; the schemes are those of `WeightsConfig.uri`."""
    if uri.startswith("builtin:"):
        return (BUILTIN,)
    if uri.startswith("random:"):
        return (RANDOM,)
    return PUBLISHED.get(engine, ())
