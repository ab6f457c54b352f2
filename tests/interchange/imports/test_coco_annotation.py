"""COCO JSON with captions, and JSON that was made to harm."""

from __future__ import annotations

import json

import pytest

from pseudoris.interchange.imports.coco_annotation import read_coco
from pseudoris.primitives.errors import ConfigError
from tests.builders.human import document, image_row, object_row, texts_of

IMAGES = [image_row(1, "a.png"), image_row("two", "sub/b.png")]


def read(images=IMAGES, annotations=()):
    return read_coco(document(images, annotations), "objects.json")


def test_all_images_and_their_objects_are_read_with_captions_where_they_have_some():
    found = read(
        annotations=[
            object_row(5, 1),
            object_row(6, "two", caption="A Cat."),
            object_row(7, 1, captions=["the dog", "dog"], caption="left dog"),
        ]
    )
    first, second = found.images
    assert (first.path, second.path) == ("a.png", "sub/b.png")
    assert [(mask.index, mask.annotation_id, texts_of(first, mask)) for mask in first.masks] == [
        (0, 5, ()),
        (1, 7, ("left dog", "the dog", "dog")),
    ]
    assert texts_of(second, second.masks[0]) == ("a cat",)


def captions(*pairs) -> bytes:
    rows = [
        {"id": n, "image_id": 1, "instance_id": instance, "caption": text} for n, (instance, text) in enumerate(pairs)
    ]
    return json.dumps({"images": [], "annotations": rows}).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (captions((9, "a")), r"annotations\[0\] is a caption of instance_id 9, which is not in the instances"),
        (captions((None, "a")), "instance_id nothing, .*Captions of whole images cannot be imported"),
        (captions(([5], "a")), "instance_id a list"),
        (captions((5, None)), "annotation 5 has the expression nothing"),
        (b'{"annotations": ["a"]}', "instance_id nothing"),
        (b"[]", "said.json is not COCO JSON. It must be an object with the lists annotations"),
    ],
)
def test_captions_that_fit_no_object_are_refused(data, message):
    with pytest.raises(ConfigError, match=message):
        read_coco(document(IMAGES, [object_row(5, 1)]), "x.json", data, "said.json")


def test_crowds_are_left_out_and_counted_and_the_others_keep_their_place():
    found = read(annotations=[object_row(5, 1, iscrowd=1), object_row(6, 1)])
    assert [mask.index for mask in found.images[0].masks] == [1]
    assert found.left_out == {"crowd regions": 1}


def test_an_image_that_is_listed_twice_is_one_with_the_objects_of_both():
    # Back slashes of Windows separate folders too.
    names = ("train\\a.png", "train/./a.png")
    found = read([image_row(at, name) for at, name in enumerate(names)], [object_row(5, 0), object_row(6, 1)])
    (image,) = found.images
    assert image.path == "train/a.png"
    assert [(mask.index, mask.annotation_id) for mask in image.masks] == [(0, 5), (1, 6)]
    assert found.left_out == {"images listed twice": 1}


OUTSIDE = [
    *("../a.png", "sub/../../a.png", "/etc/passwd", "//server/share/a.png", "..", ".", "a\0.png", "..\\a.png"),
    *("file:///etc/passwd", "s3://other/a.png", "C:\\data\\a.png", "\\\\server\\share\\a.png", "s3://other\\a.png"),
]
IMPOSSIBLE = ["a" * 300, "\ud800.png", "ü" * 200]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *((each, r"objects\.json: images\[0\] has the file_name .* is outside the folder") for each in OUTSIDE),
        *((each, "which no file system allows") for each in IMPOSSIBLE),
    ],
)
def test_a_file_name_that_leads_out_of_the_folder_is_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        read([image_row(1, name)])


def test_a_signed_link_as_a_file_name_is_refused_without_repeating_it():
    with pytest.raises(ConfigError, match="query that may be a secret") as caught:
        read([image_row(1, "https://host/a.png?X-Amz-Signature=abcdef")])
    assert "abcdef" not in str(caught.value)


NO_JSON = [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b'{"images": ' + b"9" * 5000 + b', "annotations": []}']
NO_COCO = [b"[]", b"null", b"{}", b'{"images": {}, "annotations": []}', b'{"images": []}', b"3"]


@pytest.mark.parametrize(
    ("data", "message"),
    [*((each, "cannot be read as JSON") for each in NO_JSON), *((each, "is not COCO JSON") for each in NO_COCO)],
)
def test_what_is_no_coco_is_refused(data, message):
    with pytest.raises(ConfigError, match=rf"objects\.json {message}"):
        read_coco(data, "objects.json")


@pytest.mark.parametrize(
    ("images", "annotations", "message"),
    [
        (["a.png"], [], r"images\[0\] has the id nothing. A whole number"),
        ([image_row(True, "a.png")], [], r"images\[0\] has the id true"),
        ([image_row(1, "a.png"), image_row(1, "b.png")], [], r"images\[1\] has the id 1 of another image"),
        ([{"id": 1, "height": 3, "width": 3}], [], "has the file_name nothing. The path of an image"),
        ([image_row(1, ["a.png"])], [], "has the file_name a list"),
        ([image_row(1, "a.png", height=0)], [], "has the size 0 x 32"),
        ([image_row(1, "a.png", width=None)], [], "has the size 24 x nothing"),
        ([image_row(1, "a.png", width=1e400)], [], "has the size 24 x inf"),
        ([image_row(1, "a.png"), image_row(2, "a.png", width=9)], [], "and an earlier entry give different sizes"),
        (IMAGES, ["object"], r"annotations\[0\] has the id nothing"),
        (IMAGES, [object_row("5", 1)], r"annotations\[0\] has the id '5'"),
        (IMAGES, [object_row(5, 9)], r"annotations\[0\] belongs to image_id 9, which is not in `images`"),
        (IMAGES, [object_row(5, [1])], "belongs to image_id a list"),
        (IMAGES, [object_row(5, 1), object_row(5, 1)], r"annotations\[1\] has the id 5 of another annotation"),
        (IMAGES, [object_row(5, 1, captions="a cat")], "annotation 5 has the captions 'a cat'. A list"),
        (IMAGES, [object_row(5, 1, captions=[["a"]])], "has the expression a list. An expression must be a UTF-8 text"),
        (IMAGES, [object_row(5, 1, caption="\ud800")], r"annotation 5 has the expression .* must be a UTF-8 text"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(images, annotations, message):
    with pytest.raises(ConfigError, match=message):
        read(images, annotations)
