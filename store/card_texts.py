"""What a data card says of the method and of published weights, each with who said so, and how the papers are cited."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing that is known, and where it stands written."""

    text: str
    source: str


METHOD: Final = (
    Statement(
        "No human has looked at the masks or the expressions. Where captioner and filter err alike, a wrong expression "
        "is kept.",
        "Pseudo-RIS, section 3.3: an expression is kept for CLIP's score on its own mask against the other masks",
    ),
    Statement(
        "Only masks that were proposed count as rivals: an object that the proposer missed may fit an expression too.",
        "Pseudo-RIS, section 3.3",
    ),
    Statement(
        "A mask alone in its image has no rival, and distinctiveness does not filter its expressions.",
        "docs/schema.md, column `distinctiveness`",
    ),
    Statement(
        "Expressions come from crops around one object. They name what it is and how it looks; where it lies in the "
        "image, and beside what, they hardly say.",
        "Pseudo-RIS, section 3.2; docs/schema.md, column `kind`",
    ),
)

# Of published weights, by the engine that runs them.
PUBLISHED: Final[Mapping[str, tuple[Statement, ...]]] = {
    "sam": (
        Statement(
            "Its training images (SA-1B) show Europe, Asia and Oceania, and middle-income countries, more than their "
            "share; Africa and low-income countries less.",
            "Segment Anything, section 6",
        ),
        Statement(
            "It can miss fine structures, adds small pieces that belong to nothing, and draws outlines less crisply "
            "than methods that zoom in.",
            "Segment Anything, section 8, limitations",
        ),
    ),
    "coca": (
        Statement(
            "open_clip's weights learnt from LAION-2B, pairs of image and text off the web that nobody curated. Its "
            "makers advise research use and warn of disturbing content.",
            "model cards of LAION's models trained on LAION-2B",
        ),
        Statement(
            "CoCa's authors ask for analysis of data and model, fairness and social bias among it, before use in "
            "practice.",
            "CoCa, broader impacts",
        ),
        Statement(
            "Weights tuned on MS-COCO (open_clip's tags that begin with `mscoco_finetuned`) have seen human captions "
            "of the images of RefCOCO, RefCOCO+ and RefCOCOg: figures on these sets are then not those of a method "
            "without human annotation.",
            "RefCOCO's images are those of MS-COCO's train2014",
        ),
    ),
    "clip": (
        Statement(
            "Its training data is more representative of those most connected to the internet: more developed "
            "nations, younger and male users.",
            "CLIP's model card, data",
        ),
        Statement(
            "It is weak at fine-grained classes and at counting, and was neither trained for nor tested on other "
            "languages than English: expressions of these kinds are scored less reliably.",
            "CLIP's model card, limitations and out-of-scope use",
        ),
        Statement(
            "Images of people were put into crime-related and non-human classes with significant disparities by race "
            "and gender.",
            "CLIP's model card, bias and fairness",
        ),
    ),
}

BUILTIN: Final = Statement(
    "The weights shipped with pseudoris learnt from synthetic scenes alone and know a few dozen words: on photographs "
    "their output means nothing.",
    "workers/checkpoints/tiny/MODEL_CARD.md",
)
RANDOM: Final = Statement("The weights are random: the output means nothing.", "the run's configuration")

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
