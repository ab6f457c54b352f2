"""A sample of SOURCE is asked whether the preset's models know such images."""

import io
import tarfile

import pytest

from pseudoris.pipeline.domain_sample import NUM_SAMPLED, accepted_domain, judge_sample, sample_items
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.run_records import DomainRecord
from pseudoris.store.sources import open_source
from pseudoris.synthworld.scenes import Split, make_scene
from recipes.scene_shards import scene_image
from tests.builders.images import png

TINY = load_config("tiny")
ACCEPTING = load_config("tiny", None, ["placement.accept_domain=true"])


def opened(folder):
    return open_source(str(folder), TINY.source)


def record(num_outside, num_sampled=16):
    return DomainRecord(num_sampled=num_sampled, num_outside=num_outside, max_score=2.5, median_score=5.0)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def test_of_many_files_the_sample_is_spread_evenly_over_the_listing(folder):
    for number in range(100):
        (folder / f"{number:03d}.png").touch()
    keys = [item.key for item in sample_items(opened(folder))]
    assert keys == [f"{number * 100 // NUM_SAMPLED:03d}.png" for number in range(NUM_SAMPLED)]


def test_of_few_tars_it_takes_the_first_images_of_each(folder):
    for name in ("a", "b", "c"):
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            for number in range(20):
                member = tarfile.TarInfo(f"{number:02d}.png")
                member.size = len(png())
                tar.addfile(member, io.BytesIO(png()))
    keys = [item.key for item in sample_items(opened(folder))]
    assert keys == [f"{name}.tar!{number:02d}.png" for name in "abc" for number in range(6)]


def test_a_scene_is_inside_and_what_is_broken_is_left_out(folder):
    (folder / "scene.png").write_bytes(scene_image(make_scene(Split.DEMO, 0)).data)
    (folder / "broken.png").write_bytes(b"no image")
    found = judge_sample(TINY, opened(folder), ())
    assert (found.num_sampled, found.num_outside) == (1, 0)
    assert found.median_score < found.max_score


def test_statistics_that_are_missing_are_told(folder):
    with pytest.raises(ConfigError, match=r"weights 'gone\.safetensors' are not available"):
        judge_sample(load_config("tiny", None, ["domain.weights.uri=gone.safetensors"]), opened(folder), ())


def test_where_most_is_outside_the_start_is_refused_with_both_remedies():
    with pytest.raises(ConfigError, match=r"16 of 16 sampled images.*--preset base.*--accept-domain") as refused:
        accepted_domain(record(16), TINY)
    for words in ("'tiny'", "16 of 16 sampled images", "above 2.5", "--preset base", "--accept-domain"):
        assert words in str(refused.value)


def test_where_most_is_outside_and_accepted_the_run_goes_on_with_a_notice():
    told = []
    found = accepted_domain(record(16), ACCEPTING, told.append)
    assert found.is_accepted
    assert told == [found.warning]
