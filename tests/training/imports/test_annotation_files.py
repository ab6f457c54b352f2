"""Which files an annotation is, on a disk and in a bucket."""

from __future__ import annotations

import pytest

from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.checks.verify import verify_run
from pseudoris.store.location import RunLocation
from pseudoris.store.tables.committed_tables import read_table
from pseudoris.training.imports import ImportRequest
from pseudoris.training.imports.annotation_files import read_annotation
from tests.builders.human import write_small_refer
from tests.builders.imports import import_small
from tests.builders.runs import part_digests


@pytest.fixture
def dataset(tmp_path):
    return write_small_refer(tmp_path)[0]


def read(annotation, *, annotation_format="refer", **values):
    return read_annotation(
        ImportRequest(str(annotation), "images", load_config("tiny"), format=annotation_format, **values)
    )


def test_a_folder_with_one_file_of_references_needs_no_choice(dataset):
    assert len(read(dataset).images) == 5
    assert read(f"{dataset}/").digests == read(dataset / "refs(unc).p").digests


def test_a_relative_path_is_one_too(dataset, monkeypatch):
    monkeypatch.chdir(dataset)
    assert len(read("refs(unc).p").images) == len(read(".").images) == 5


def test_of_several_files_of_references_one_is_chosen(dataset):
    (dataset / "refs(google).p").write_bytes((dataset / "refs(unc).p").read_bytes())
    with pytest.raises(
        ConfigError,
        match=r"refs\(google\)\.p, refs\(unc\)\.p\. Choose one: give the name in its brackets as --split-by",
    ):
        read(dataset)
    assert set(read(dataset, split_by="google").digests) == {"refs(google).p", "instances.json"}
    with pytest.raises(ConfigError, match=r"refs\(google\)\.p"):
        read(dataset, split_by="umd")
    with pytest.raises(ConfigError, match="is a file, and --split-by chooses a file of a folder"):
        read(dataset / "refs(unc).p", split_by="unc")


def test_what_is_missing_is_named(dataset, tmp_path):
    with pytest.raises(ConfigError, match="nowhere' does not exist"):
        read(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="has these files of references: none"):
        read(tmp_path)
    with pytest.raises(ConfigError, match=r"is a folder\. Name the COCO JSON file in it"):
        read(dataset, annotation_format="coco")
    (dataset / "instances.json").unlink()
    with pytest.raises(ConfigError, match=r"instances\.json does not exist. A REFER dataset has"):
        read(dataset)


def test_a_url_with_a_secret_is_refused():
    with pytest.raises(ConfigError, match="holds credentials"):
        read("s3://key:secret@bucket/refcoco")


@pytest.mark.slow
def test_all_from_and_into_a_bucket_has_the_bytes_of_an_import_between_disks(tmp_path, s3_server, s3_bucket):
    annotation, images = write_small_refer(tmp_path)
    client = s3_server.client()
    for path in [*annotation.rglob("*"), *images.rglob("*.png")]:
        client.put_object(Bucket=s3_bucket, Key=str(path.relative_to(tmp_path)), Body=path.read_bytes())
    client.delete_object(Bucket=s3_bucket, Key="images/train2014/3.png")
    words = ("shards.embed_images=true", f"source.endpoint_url={s3_server.endpoint_url}")
    location = RunLocation.open(f"s3://{s3_bucket}/out", s3_server.endpoint_url)
    uris = f"s3://{s3_bucket}/refcoco", f"s3://{s3_bucket}/images"
    summary = import_small(*uris, location, *words)
    assert (summary.totals.annotated, summary.totals.reasons) == (4, {"missing": 1})
    assert verify_run(location).is_clean
    again = import_small(*uris, location, *words)
    assert again.num_shards_before == 3

    (images / "train2014/3.png").unlink()
    on_disk = RunLocation.open(str(tmp_path / "out"))
    import_small(annotation, images, on_disk, "shards.embed_images=true")
    names = {digest for digest in part_digests(tmp_path / "out")}
    stored = {f"{table}/{file.name}" for table in ("images", "masks", "expressions") for file in location.list(table)}
    assert stored | {name for name in names if name.startswith("failures")} == names
    assert read_table(location, "images")["key"].to_pylist() == read_table(on_disk, "images")["key"].to_pylist()


@pytest.mark.slow
def test_a_changed_annotation_in_the_bucket_is_refused(tmp_path, s3_server, s3_bucket):
    annotation, images = write_small_refer(tmp_path, num_images=2)
    location = RunLocation.open(f"s3://{s3_bucket}/out", s3_server.endpoint_url)
    words = (f"source.endpoint_url={s3_server.endpoint_url}",)
    import_small(annotation, images, location, *words)
    with pytest.raises(ConfigError, match=r"import\.splits"):
        import_small(annotation, images, location, *words, splits=("val",))
