"""The models and files that a run used (weights, ready masks, instances), each with its digest.

Also what a data card says about the method and about published weights, each statement with its source, and the
citations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from pseudoris.schemas.config import FilterConfig, MasksConfig, SamArchitecture
from pseudoris.schemas.run_records import RunHeader


@dataclass(frozen=True, slots=True)
class Statement:
    """A known fact, and its source."""

    text: str
    source: str


METHOD: Final = (
    Statement(
        "No human has checked the masks or the expressions. If captioner and filter err in a similar way, a wrong "
        "expression is kept.",
        "Pseudo-RIS, section 3.3: an expression is kept for CLIP's score on its own mask against the other masks",
    ),
    Statement(
        "An expression is only compared with proposed masks: it may also fit an object that the proposer missed.",
        "Pseudo-RIS, section 3.3",
    ),
    Statement(
        "If an image has only one mask, that mask has no rival, and distinctiveness does not filter its expressions.",
        "docs/schema.md, column `distinctiveness`",
    ),
    Statement(
        "Expressions come from crops around one object. They say what it is and how it looks. They rarely say where it "
        "is in the image, or what is next to it.",
        "Pseudo-RIS, section 3.2; docs/schema.md, column `kind`",
    ),
)

# Statements on published weights, by the engine that runs them.
PUBLISHED: Final[Mapping[str, tuple[Statement, ...]]] = {
    "sam": (
        Statement(
            "Its training images (SA-1B) over-represent Europe, Asia, Oceania and middle-income countries, and "
            "under-represent Africa and low-income countries.",
            "Segment Anything, section 6",
        ),
        Statement(
            "It can miss fine structures, can add small disconnected pieces, and draws boundaries less crisply than "
            "methods that zoom in.",
            "Segment Anything, section 8, limitations",
        ),
    ),
    "coca": (
        Statement(
            "The weights of open_clip were trained on LAION-2B, uncurated pairs of image and text from the web. Its "
            "authors recommend research use and warn of disturbing content.",
            "model cards of LAION's models trained on LAION-2B",
        ),
        Statement(
            "The authors of CoCa ask for an analysis of data and model, including fairness and social bias, before use "
            "in practice.",
            "CoCa, broader impacts",
        ),
        Statement(
            "Weights fine-tuned on MS-COCO (open_clip's tags that begin with `mscoco_finetuned`) have seen human "
            "captions of the images of RefCOCO, RefCOCO+ and RefCOCOg. Results on these sets are then not results of "
            "a method without human annotation.",
            "RefCOCO's images are those of MS-COCO's train2014",
        ),
    ),
    "clip": (
        Statement(
            "Its training data is more representative of the people most connected to the internet: more developed "
            "nations, and younger, male users.",
            "CLIP's model card, data",
        ),
        Statement(
            "It is weak at fine-grained classes and at counting, and was neither trained nor tested on languages other "
            "than English. Scores of such expressions are less reliable.",
            "CLIP's model card, limitations and out-of-scope use",
        ),
        Statement(
            "It classified images of people as crime-related or non-human with significant disparities by race and "
            "gender.",
            "CLIP's model card, bias and fairness",
        ),
    ),
}

BUILTIN: Final = Statement(
    "The weights shipped with pseudoris were trained only on synthetic scenes and know a few dozen words. On "
    "photographs their output is meaningless.",
    "workers/checkpoints/tiny/MODEL_CARD.md",
)
RANDOM: Final = Statement("The weights are random: the output is meaningless.", "the run's configuration")

BIBTEX: Final = r"""@inproceedings{yu2024pseudoris,
  title     = {Pseudo-RIS: Distinctive Pseudo-supervision Generation for Referring Image Segmentation},
  author    = {Yu, Seonghoon and Seo, Paul Hongsuck and Son, Jeany},
  booktitle = {European Conference on Computer Vision (ECCV)},
  year      = {2024}
}

@inproceedings{dai2024ppt,
  title     = {Curriculum Point Prompting for Weakly-Supervised Referring Image Segmentation},
  author    = {Dai, Qiyuan and Yang, Sibei},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2024}
}

@inproceedings{kirillov2023sam,
  title     = {Segment Anything},
  author    = {Kirillov, Alexander and Mintun, Eric and Ravi, Nikhila and Mao, Hanzi and Rolland, Chloe and
               Gustafson, Laura and Xiao, Tete and Whitehead, Spencer and Berg, Alexander C. and Lo, Wan-Yen and
               Doll{\'a}r, Piotr and Girshick, Ross},
  booktitle = {IEEE/CVF International Conference on Computer Vision (ICCV)},
  year      = {2023}
}

@article{yu2022coca,
  title   = {CoCa: Contrastive Captioners are Image-Text Foundation Models},
  author  = {Yu, Jiahui and Wang, Zirui and Vasudevan, Vijay and Yeung, Legg and Seyedhosseini, Mojtaba and
             Wu, Yonghui},
  journal = {Transactions on Machine Learning Research},
  year    = {2022}
}

@inproceedings{radford2021clip,
  title     = {Learning Transferable Visual Models From Natural Language Supervision},
  author    = {Radford, Alec and Kim, Jong Wook and Hallacy, Chris and Ramesh, Aditya and Goh, Gabriel and
               Agarwal, Sandhini and Sastry, Girish and Askell, Amanda and Mishkin, Pamela and Clark, Jack and
               Krueger, Gretchen and Sutskever, Ilya},
  booktitle = {International Conference on Machine Learning (ICML)},
  year      = {2021}
}
"""


# By stage of the identity: the configuration section that names its engine, and the stage's title.
_STAGES: Final = {
    "propose": ("masks", "mask proposal"),
    "caption": ("captions", "captions"),
    "filter": ("filtering", "scores and filter"),
}
# Engines of this package that read `weights.uri`. What other engines read is not known here.
_OWN: Final = frozenset({"sam", "coca", "clip"})
_READY: Final = "ready"


@dataclass(frozen=True, slots=True)
class UsedModel:
    """A model or file that a run used.

    Attributes:
        title: What it was used for.
        engine: The engine that read it.
        architecture: Empty if it is not known.
        thing: What was read: `weights`, `masks` or `instances`.
        uri: Where it was read; None if only the engine knows.
        digest: Digest from the identity or the configuration, as text for the card; None if there is none.
        statements: Known facts about it; empty for the user's own files.
    """

    title: str
    engine: str
    architecture: str
    thing: str
    uri: str | None
    digest: str | None
    statements: tuple[Statement, ...] = ()


def used_models(header: RunHeader) -> list[UsedModel]:
    """Return the models and files that the run of `header` used, stage by stage; empty for an import."""
    return [used for stage, digest in header.identity.weights.items() for used in _of_stage(header, stage, digest)]


def _of_stage(header: RunHeader, stage: str, digest: str) -> Iterator[UsedModel]:
    section, title = _STAGES.get(stage, (None, stage))
    settings = getattr(header.config, section) if section else None
    engine = settings.engine if settings else stage
    if engine == _READY and isinstance(settings, MasksConfig):
        # The identity has a digest of the folder's name, not of its content.
        folder = str(settings.options.get("folder", ""))
        yield UsedModel(title, engine, "", "masks", folder, None)
        yield from _prior(settings)
        return
    if settings is None or engine not in _OWN:
        yield UsedModel(title, engine, "", "weights", None, f"`{digest}`, as given by the engine")
        return
    uri = settings.weights.uri
    own: str | None = f"`{digest}`"
    others = list(_prior(settings)) if isinstance(settings, MasksConfig) else []
    if isinstance(settings, FilterConfig) and settings.nouns == "spacy_first_child":
        others.append(UsedModel("head nouns", settings.nouns, "", "weights", settings.spacy_model, None))
    if others:
        # The identity has one digest of both; the digest of a single one is known if the configuration gives it.
        own = f"`{settings.weights.sha256}`" if settings.weights.sha256 else None
    yield UsedModel(title, engine, _named(settings.architecture), "weights", uri, own, _statements(engine, uri))
    for other in others:
        both = f"{title} and {other.title}"
        yield other
        files = "files" if isinstance(settings, MasksConfig) else "models"
        yield UsedModel(both, "", "", "", None, f"`{digest}`, over the digests of the two {files}")
    if isinstance(settings, FilterConfig) and settings.nouns == "spacy":
        yield UsedModel("head nouns", "spacy", "", "weights", None, None)


def _prior(masks: MasksConfig) -> Iterator[UsedModel]:
    prior = masks.prior
    if prior.kind not in ("table", "torchvision") or prior.path is None:
        return
    thing = "instances" if prior.kind == "table" else "weights"
    yield UsedModel("instance prior", prior.kind, "", thing, prior.path, None)


def _named(architecture: SamArchitecture | str) -> str:
    if isinstance(architecture, str):
        return architecture
    sizes = f"{architecture.encoder_depth} blocks of {architecture.encoder_width}, {architecture.image_size} px"
    return f"ViT, {sizes}"


def _statements(engine: str, uri: str) -> tuple[Statement, ...]:
    """Return the known facts about a model of this package; the schemes are those of `WeightsConfig.uri`."""
    if uri.startswith("builtin:"):
        return (BUILTIN,)
    if uri.startswith("random:"):
        return (RANDOM,)
    return PUBLISHED.get(engine, ())
