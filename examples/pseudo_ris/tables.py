"""The tables of Pseudo-RIS as data: which annotations there are, what learns from them, and what is in which table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

_UNFILTERED: Final = "data.is_kept_only=false"
SHARES: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Annotation:
    """A run over the training images.

    Attributes:
        settings: Words of `annotate --set`, over those that the user gives.
        refilter: Words of `refilter`, if it is the main annotation under another rule.
    """

    settings: tuple[str, ...] = ()
    refilter: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Learner:
    """A row of a table.

    Attributes:
        title: In the table.
        annotation: Name of what it learns from; None learns from human annotation alone.
        kind: Whether it draws masks (`experiments.segmenter`) or chooses one (`train student`).
        training: Words of `--set` of its training, before those that the user gives.
        human: Share of the human references that it learns from.
        needs: What must be at hand; such a row is only run if it is named.
    """

    title: str
    annotation: str | None = "main"
    kind: Literal["segmenter", "chooser"] = "segmenter"
    training: tuple[str, ...] = ()
    human: float = 0.0
    needs: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """One table or figure of the paper.

    Attributes:
        title: Of the page.
        learners: Names of `LEARNERS`, a row each.
        truth: What is asked: REFER's splits that end like this ("" takes all that are held out), or PhraseCut.
        notes: What a reader must know.
    """

    title: str
    learners: tuple[str, ...]
    truth: str = ""
    notes: tuple[str, ...] = ()


def _open_clip(stage: str, name: str, tag: str) -> tuple[str, ...]:
    return (f"{stage}.architecture={name}", f"{stage}.weights.uri=open_clip:{name}/{tag}")


ANNOTATIONS: Final[Mapping[str, Annotation]] = {
    "main": Annotation(),
    "nucleus": Annotation(("captions.sampling.is_distinctive=false",)),
    "rules": Annotation(("masks.prior.kind=none",)),
    "captioner-b": Annotation(_open_clip("captions", "coca_ViT-B-32", "laion2b_s13b_b90k")),
    "captioner-coco": Annotation(_open_clip("captions", "coca_ViT-L-14", "mscoco_finetuned_laion2b_s13b_b90k")),
    "clip-vit": Annotation(_open_clip("filtering", "ViT-B-32-quickgelu", "openai")),
    "uniqueness": Annotation(refilter=("--tau", "0", "--keep", "uniqueness > 1")),
    "correctness": Annotation(refilter=("--tau", "0", "--keep", "correctness > 0.2")),
    **{f"tau-{tau}": Annotation(refilter=("--tau", tau)) for tau in ("0.9", "1.1", "1.2")},
}

_WEIGHTS: Final = "`--row` with its weights: `pseudoris weights get` their uri, or `--set ROW:KEY=VALUE` for your own"
LEARNERS: Final[Mapping[str, Learner]] = {
    "main": Learner("Pseudo-RIS, our segmenter"),
    "chooser": Learner("Pseudo-RIS, our chooser among SAM's masks", kind="chooser"),
    "beam": Learner("naive captions: beam search", training=(_UNFILTERED, 'data.decoders=["beam"]')),
    "nucleus": Learner("+ sampling without contrast", "nucleus", training=(_UNFILTERED,)),
    "distinctive": Learner("+ distinctive sampling", training=(_UNFILTERED,)),
    "nucleus-filtered": Learner("sampling without contrast, filter", "nucleus"),
    "uniqueness": Learner("filter by uniqueness alone, > 1", "uniqueness"),
    "correctness": Learner("filter by correctness alone, > 0.2", "correctness"),
    "kept-alone": Learner("filter; masks without a kept caption are left out", training=("data.draw=distinct",)),
    **{f"tau-{tau}": Learner(f"filter, τ = {tau}", f"tau-{tau}") for tau in ("0.9", "1.1", "1.2")},
    "rules": Learner("SAM's masks by rules, without CutLER's instances", "rules"),
    "captioner-b": Learner("captioner: CoCa ViT-B/32", "captioner-b", needs=_WEIGHTS),
    "captioner-coco": Learner("captioner: CoCa tuned on MS-COCO", "captioner-coco", needs=_WEIGHTS),
    "clip-vit": Learner("filter by CLIP ViT-B/32", "clip-vit", needs=_WEIGHTS),
    "noun-phrases": Learner("texts: noun phrases alone", None, needs="a setting that does not exist here"),
    **{f"semi-{share:g}": Learner(f"ours and {share:.0%} human", human=share) for share in SHARES},
    **{f"human-{share:g}": Learner(f"{share:.0%} human alone", None, human=share) for share in SHARES},
}
TABLES: Final[Mapping[str, Table]] = {
    "main": Table("RefCOCO, RefCOCO+, RefCOCOg", ("main", "chooser")),
    "phrasecut": Table(
        "PhraseCut, cross-domain",
        ("main", "chooser"),
        "phrasecut",
        (
            "`seen`: phrases whose category REFER's instances.json names; `unseen`: all others. The paper's own list "
            "of unseen classes is not at hand. Several instances of a phrase are asked for together.",
        ),
    ),
    "semi": Table(
        "Semi-supervised (figure 4)",
        ("main", *(f"{kind}-{share:g}" for share in SHARES for kind in ("semi", "human"))),
        "/val",
        ("Shares are of the human references of RefCOCO+'s split train; a larger share holds a smaller one.",),
    ),
    "ablations": Table(
        "Ablations",
        (
            *("beam", "nucleus", "distinctive", "nucleus-filtered", "main", "kept-alone", "uniqueness", "correctness"),
            *("tau-0.9", "tau-1.1", "tau-1.2", "rules", "captioner-b", "captioner-coco", "clip-vit", "noun-phrases"),
        ),
        "/val",
    ),
}
