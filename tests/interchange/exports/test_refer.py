"""REFER's layout: what its loaders ask of the pickle and of instances.json, and a human's splits merged into it."""

from __future__ import annotations

import json
import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest

from pseudoris.interchange.exports import HumanAnnotation, refer
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.ids import image_id
from pseudoris.store.location import RunLocation
from tests.builders.human import image_row, object_row, reference, write_refer
from tests.interchange.exports.builders import HEIGHT, PICTURES, WIDTH, export, jpeg
from tests.interchange.exports.loading import load_refer
from tests.interchange.exports.readers_refer import LavtDataset, Refer, lisa_texts


@pytest.fixture(scope="module")
def root(built_run, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("refer") / "root"
    export("refer", built_run, RunLocation.open(str(root)))
    return root


@pytest.fixture
def human(tmp_path) -> HumanAnnotation:
    """A REFER dataset of three splits, whose numbers are those that a run's export uses too."""
    names = ["COCO_train2014_1.jpg", "COCO_train2014_2.jpg", "turned.jpg"]
    images = tmp_path / "images"
    images.mkdir()
    for name in names:
        (images / name).write_bytes(jpeg())
    refs = [
        reference(at, at, at, "human 0", "human 1", " ", split=split)
        for at, split in enumerate(["train", "val", "testA"], 1)
    ]
    rows = [image_row(at, name, height=HEIGHT, width=WIDTH) for at, name in enumerate(names, 1)]
    folder = write_refer(tmp_path / "refcoco", rows, [object_row(at, at, (2, 2, 8, 9)) for at in (1, 2, 3)], refs)
    tree = json.loads((folder / "instances.json").read_text())
    tree["categories"] = [{"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}]
    (folder / "instances.json").write_text(json.dumps(tree))
    return HumanAnnotation(str(folder / "refs(unc).p"), str(folder / "instances.json"), images=str(images))


def refs_of(root: Path) -> list[dict]:
    return pickle.loads((root / "refcoco" / "refs(pseudo).p").read_bytes())


def instances_of(root: Path) -> dict:
    return json.loads((root / "refcoco" / "instances.json").read_text())


def test_trap_numbers_are_plain_python_ints_so_that_loaders_find_them(root):
    def numbers(tree):
        if isinstance(tree, dict | list):
            for each in tree.values() if isinstance(tree, dict) else tree:
                yield from numbers(each)
        elif not isinstance(tree, str):
            yield tree

    refs = refs_of(root)
    assert {type(number) for number in numbers(refs)} == {int}
    reader = Refer(root)
    assert all(reader.load_refs(ref["ref_id"]) and reader.load_imgs(ref["image_id"]) for ref in refs)
    assert reader.load_refs(np.int64(refs[0]["ref_id"])) is None


def test_trap_the_pickle_is_of_protocol_four_or_lower_and_names_no_class(root):
    found = list(pickletools.genops((root / "refcoco" / "refs(pseudo).p").read_bytes()))
    assert next(argument for code, argument, _ in found if code.name == "PROTO") <= 4
    assert not {code.name for code, _, _ in found} & {"GLOBAL", "STACK_GLOBAL", "REDUCE", "INST", "OBJ", "NEWOBJ"}


def test_trap_sent_ids_are_as_long_as_the_sentences_and_in_their_order(root):
    refs = refs_of(root)
    assert all(ref["sent_ids"] == [sentence["sent_id"] for sentence in ref["sentences"]] for ref in refs)
    # LAVT zips both: no text may get lost.
    assert sum(map(len, LavtDataset(root, "train").texts)) == sum(
        len(ref["sentences"]) for ref in refs if ref["split"] == "train"
    )


def test_trap_ids_of_references_masks_images_and_sentences_are_unique(root):
    refs, tree = refs_of(root), instances_of(root)
    for ids in (
        [ref["ref_id"] for ref in refs],
        [sentence["sent_id"] for ref in refs for sentence in ref["sentences"]],
        [annotation["id"] for annotation in tree["annotations"]],
        [image["id"] for image in tree["images"]],
    ):
        assert len(set(ids)) == len(ids) > 0


def test_trap_bars_that_lisa_refuses_are_dropped_and_counted(built_run, place):
    report = export("refer", built_run, place)
    assert report.dropped["expressions that hold '||'"] == 2
    assert all(lisa_texts(ref) for ref in refs_of(Path(place.root)))


UNKNOWN = r"is not known to REFER. Choose from refcoco, refcoco\+, refcocog"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        *(({"dataset": name}, UNKNOWN) for name in ("pseudo", "../refcoco", "refclef")),
        ({"split": "tests"}, "is not a split of REFER"),
    ],
)
def test_trap_names_that_refer_stops_at_are_refused(option, message, built_run, place):
    with pytest.raises(ConfigError, match=message):
        export("refer", built_run, place, **option)
    assert not Path(place.root).exists()


def test_another_dataset_and_splitter_are_found_under_their_names(built_run, place):
    export("refer", built_run, place, dataset="refcocog", split_by="umd", split="val")
    assert len(LavtDataset(Path(place.root), "val", "refcocog", "umd")) > 0


def test_masks_are_polygons_which_fill_to_the_same_pixels_as_encodings_where_asked(run_of_several, place, tmp_path):
    export("refer", run_of_several, place)
    codes = [each["segmentation"] for each in instances_of(Path(place.root))["annotations"]]
    assert {(len(code), type(code[0])) for code in codes} == {(1, list)}
    encoded = RunLocation.open(str(tmp_path / "encoded"))
    export("refer", run_of_several, encoded, masks="rle")
    found, due = load_refer(Path(place.root)), load_refer(Path(encoded.root))
    assert [mask.texts for mask in found] == [mask.texts for mask in due]
    assert all(np.array_equal(one.mask, other.mask) for one, other in zip(found, due, strict=True))


def test_a_humans_splits_join_without_a_number_shared(built_run, human, place):
    report = export("refer", built_run, place, human=human)
    root = Path(place.root)
    test_trap_ids_of_references_masks_images_and_sentences_are_unique(root)
    test_trap_numbers_are_plain_python_ints_so_that_loaders_find_them(root)
    test_trap_sent_ids_are_as_long_as_the_sentences_and_in_their_order(root)
    assert {split: len(LavtDataset(root, split)) for split in ("train", "val", "testA")} == {
        "train": report.rows["references of train"],
        "val": 1,
        "testA": 1,
    }
    val = LavtDataset(root, "val")
    path, mask, texts = val[0]
    assert (path.name, path.read_bytes(), texts) == ("COCO_train2014_2.jpg", jpeg(), ["Human 0 ", "Human 1 "])
    assert 30 < mask.sum() < 60
    reader = val.refer
    assert {reader.cats[reader.ref_to_ann[ref_id]["category_id"]] for ref_id in val.ref_ids} == {"person"}
    pseudo = LavtDataset(root, "train")
    assert {reader.cats[reader.ref_to_ann[ref_id]["category_id"]] for ref_id in pseudo.ref_ids} == {"object"}
    assert report.dropped["human sentences without a text"] == 2


def test_an_image_that_the_human_splits_show_is_not_trained_on(built_run, human, place):
    report = export("refer", built_run, place, human=human)
    assert report.dropped[refer.SHOWN_TO_HUMANS] == 1
    (turned,) = [key for key, _, _ in PICTURES if key.endswith("turned.jpg")]
    assert image_id(turned) not in {mask.image_id for mask in load_refer(Path(place.root))}


def test_without_their_folder_the_humans_images_are_named_as_missing(built_run, human, place):
    named = HumanAnnotation(human.refs, human.instances, ("val",))
    report = export("refer", built_run, place, human=named)
    assert any("The 1 images of the human references were not copied" in note for note in report.notes)
