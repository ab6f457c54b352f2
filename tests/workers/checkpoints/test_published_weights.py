"""What is said of published weights agrees with what publishes them."""

import pytest
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.pretrained import get_pretrained_cfg

from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.workers.checkpoints.published_weights import TAG_REPOS, published_file


@pytest.mark.parametrize("tag", TAG_REPOS)
def test_the_repositories_of_tags_are_those_of_open_clip(tag):
    name, _, label = tag.rpartition("/")
    assert get_pretrained_cfg(name, label)["hf_hub"] == f"{TAG_REPOS[tag]}/"


def test_a_tag_has_open_clip_s_file_names_in_its_order():
    known = published_file(WeightsConfig(uri="open_clip:RN50-quickgelu/openai"))
    assert (known.repo, known.revision) == ("timm/resnet50_clip.openai", "main")
    assert tuple(known.files.values()) == (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME)
    assert known.licence == "MIT"


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("RN50", "/TAG is missing behind 'RN50'; tags of 'RN50': openai, yfcc15m, cc12m"),
        ("RN50/none", "open_clip has no such model and tag; tags of 'RN50': openai"),
        ("RN51/openai", r"tags of 'RN51': none. open_clip.list_pretrained\(\) lists all models"),
    ],
)
def test_a_tag_that_open_clip_does_not_know_is_told_with_those_that_it_knows(tag, message):
    with pytest.raises(ConfigError, match=message):
        published_file(WeightsConfig(uri=f"open_clip:{tag}"))


def test_nothing_is_known_of_a_person_s_own_files():
    for uri in ("mine.pth", "s3://bucket/sam_vit_b_01ec64.pth", "builtin:tiny/sam.safetensors", "random:3"):
        assert published_file(WeightsConfig(uri=uri)) is None
