"""The WebDataset export through the webdataset package and the index through wids' rules."""

from __future__ import annotations

from pathlib import Path

import pytest
import webdataset
from pycocotools import mask as coco

from pseudoris.interchange.exports import find_export
from pseudoris.primitives.errors import TransientError
from tests.builders.web import serving_folder
from tests.interchange.exports.builders import UPRIGHT, build_run, export, jpeg, request_for
from tests.interchange.exports.readers_webdataset import read_index, read_samples

SMALL = 20_000


def tars(root: Path) -> list[Path]:
    return sorted(root.glob("data-*.tar"))


def test_the_package_decodes_images_and_json_by_their_extensions(exported):
    paths = [str(path) for path in tars(exported("webdataset")[0])]
    decoded = list(webdataset.WebDataset(paths, shardshuffle=False).decode("rgb8"))
    for sample in decoded:
        image = sample["jpg"] if "jpg" in sample else sample["png"]
        assert image.shape == (sample["json"]["height"], sample["json"]["width"], 3) == UPRIGHT.shape
        for mask in sample["json"]["masks"]:
            assert coco.decode(mask["segmentation"]).shape == image.shape[:2]
    assert decoded


def test_each_export_gives_its_own_samples_out_of_one_cache(built_run, run_of_several, tmp_path_factory):
    """The package keeps a tar under the last name of its url, whatever the host and the folders."""
    tmp_path, cache = tmp_path_factory.mktemp("served"), str(tmp_path_factory.mktemp("cache"))
    with serving_folder(tmp_path) as url:
        for run, folder in ((built_run, "a"), (run_of_several, "b"), (run_of_several, "a")):
            export("webdataset", run, tmp_path / folder, is_overwriting=True)
            shards = read_index(tmp_path / folder / "index.json")
            urls = [f"{url}/{folder}/{shard['url']}" for shard in shards]
            samples = webdataset.WebDataset(urls, shardshuffle=False, cache_dir=cache)
            assert [sample["__key__"] for sample in samples] == list(run.with_texts())


def test_the_tars_are_one_pattern_whose_digest_tells_what_they_hold(tmp_path_factory):
    """The package expands braces; a tar without an image that has gone is another one, and so is each beside it."""
    photos, folder = tmp_path_factory.mktemp("photos"), tmp_path_factory.mktemp("exports")
    pictures = tuple((key, jpeg(), (("the red square",),)) for key in ("a.jpg", "b.jpg", "c.jpg"))
    run = build_run(folder / "run", pictures, embed=False, source=photos)

    def read(name: str) -> tuple[list[str], int]:
        report = export("webdataset", run, folder / name, target_bytes=1)
        (pattern,) = (each.split()[4].rstrip(";") for each in report.notes)
        samples = webdataset.WebDataset(str(folder / name / pattern), shardshuffle=False)
        return [path.name for path in tars(folder / name)], len(list(samples))

    whole, again = read("whole"), read("again")
    (photos / "c.jpg").unlink()
    less = read("less")
    assert (whole, whole[1], less[1], len(whole[0])) == (again, 3, 2, 3)
    assert not {name[:21] for name in whole[0]} & {name[:21] for name in less[0]}


def test_images_that_come_and_go_end_an_export(tmp_path, place):
    pictures = tuple((key, jpeg(), (("the red square",),)) for key in ("a.jpg", "b.jpg"))
    run = build_run(tmp_path / "run", pictures, embed=False, source=tmp_path / "photos")
    there, gone = tmp_path / "photos" / "a.jpg", tmp_path / "photos" / "a.gone"
    there.rename(gone)

    def comes_or_goes(done: int, total: int, stage: str = "") -> None:
        # Behind the first image that could be read: once each time.
        if done == total - 1:
            gone.rename(there) if gone.exists() else there.rename(gone)

    with pytest.raises(TransientError, match="images of SOURCE come and go"):
        find_export("webdataset").write(request_for(run, place), comes_or_goes)


def test_tars_stay_below_the_target_size_and_the_index_adds_up(built_run, place):
    report = export("webdataset", built_run, place, target_bytes=SMALL)
    root = Path(place.root)
    assert report.files["samples"] == len(tars(root)) > 1
    assert all(path.stat().st_size <= SMALL for path in tars(root))
    shards = read_index(root / "index.json")
    assert [shard["url"] for shard in shards] == [path.name for path in tars(root)]
    assert sum(shard["nsamples"] for shard in shards) == report.rows["samples"] == len(list(read_samples(root)))
    for shard in shards:
        assert (
            sum(1 for _ in webdataset.WebDataset([str(root / shard["url"])], shardshuffle=False)) == shard["nsamples"]
        )
