"""The loaders of other projects: each gives what its own lines give of an export.

A loader takes the folder of its code and an export; trainers.tsv says which, and with which arguments.
"""

from __future__ import annotations

import json
import math
import pickle
import random
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
from PIL import Image

from evidence.experiments.loaders.snapshots import bare, stub, take
from evidence.experiments.loaders.truth import Seen

_QUESTION: Final = re.compile(r"Locate (.*), and list the box of everything that it refers to\.$", re.DOTALL)
_NORM: Final = (1000, 1000)
# Of Qwen's processor, behind LLaMA-Factory's own limits: the least and the largest area, pixels.
_PROCESSOR_LIMITS: Final = (56 * 56, 16384 * 28 * 28)
_HOLD_IMAGES: Final = ("refer_seg_data", "refer_segm_data", "reason_seg_data")
_TRAIN: Final = "images/mscoco/images/train2014"
# DETRIS warps images into a square of this side: those of the demo, of 192 pixels at most, by whole pixels.
_SIDE: Final = 192
_DRAWING: Final = ("skimage.io", "imageio.v2", "matplotlib.pyplot", "matplotlib.collections", "matplotlib.patches")
_FILES: Final = SimpleNamespace(isfile=lambda path: Path(path).is_file(), get_local_path=str, open=open)


def _answered(path: str, question: str, answer: str, frame: tuple[int, int]) -> Seen:
    """Return what a question and its answer, as the model gets them, say of an image."""
    found, objects = _QUESTION.search(question), json.loads(answer)
    text = found.group(1) if found else f"not asked: {question}"
    if any(each["label"] != text for each in objects):
        text = f"{text}, but answered {answer}"
    return Seen(Path(path).name, text, boxes=[each["bbox_2d"] for each in objects], frame=frame)


def _resized(image: Image.Image, limits: tuple[int, int]) -> tuple[int, int]:
    """Return the (width, height) to which Qwen2.5-VL's processor resizes an image, by qwen-vl-utils."""
    smart_resize = import_module("qwen_vl_utils.vision_process").smart_resize
    height, width = smart_resize(image.height, image.width, factor=28, min_pixels=limits[0], max_pixels=limits[1])
    return width, height


def _swift_template(root: Path, *, is_resized: bool) -> Any:
    """Return the functions of ms-swift's template that put boxes and expressions into texts."""
    base, qwen = root / "swift/template/base.py", root / "swift/template/templates/qwen.py"
    found = re.search(r"special_tokens = (\[.*\])", base.read_text(encoding="utf-8"))
    tokens = SimpleNamespace(special_tokens=re.findall(r"<[\w-]+>", found.group(1) if found else ""))
    split = take(root / "swift/template/utils.py", "split_str_parts_by", "_split_str_by_regex", re=re)
    world = {**vars(split), "Template": tokens, "fetch_one": lambda context: context}
    statics = ("_get_height_width", "_get_bbox_str", "_split_special_tokens")
    methods = ("normalize_bbox", "_pre_tokenize", "_pre_tokenize_images")
    own = ("Qwen2VLTemplate.replace_tag", "Qwen2VLTemplate.replace_ref", "Qwen2VLTemplate.replace_bbox")
    taken = vars(take(base, *(f"Template.{name}" for name in (*statics, *methods)), **world)) | vars(take(qwen, *own))
    members = {name: staticmethod(each) if name in statics else each for name, each in taken.items()}
    # bbox_format as QWENVL_BBOX_FORMAT=new sets it: the answer is then JSON.
    facts = {"norm_bbox": "none" if is_resized else "norm1000", "version": "v2_5", "mode": "train"}
    return type("QwenTemplate", (), {**members, **facts, "bbox_format": "new", "template_backend": "swift"})()


def swift(root: Path, export: Path, *, is_resized: bool = False) -> Iterator[Seen]:
    """Give each row through the checks of `RowPreprocessor` and through `Template._pre_tokenize`."""
    checks = ("_check_objects", "_check_messages", "_cast_mm_data")
    check = take(root / "swift/dataset/preprocessor/core.py", *(f"RowPreprocessor.{name}" for name in checks))
    template = _swift_template(root, is_resized=is_resized)
    path, cache = str(export / "annotations.jsonl"), str(export.parent / "datasets-cache")
    for row in import_module("datasets").load_dataset("json", data_files=path, split="train", cache_dir=cache):
        for name in checks:
            getattr(check, name)(row)
        images, nothing = [Image.open(export / each["path"]) for each in row["images"]], dict[str, Any]()
        inputs = SimpleNamespace(images=images, objects=row["objects"], is_multimodal=True, ref_idx=0, bbox_idx=0)
        inputs.chat_template_kwargs = inputs.mm_processor_kwargs = nothing
        template._get_height_width(inputs)
        # A turn ends between two texts.
        turns = "<|im_end|>".join(message["content"] for message in row["messages"])
        done, _ = template._pre_tokenize(*template._split_special_tokens([turns], [1.0]), inputs)
        frame = inputs.images[0].size if is_resized else _NORM
        question, answer = "".join(done).split("<|im_end|>")
        yield _answered(row["images"][0]["path"], question, answer, frame)


def llamafactory(root: Path, export: Path, *, limits: tuple[int, int] | None = None) -> Iterator[Seen]:
    """Give each record through `get_dataset_list`, `SharegptDatasetConverter` and the image plug-in."""
    bare(root, "llamafactory", "llamafactory.data", "llamafactory.extras")
    stub("llamafactory.extras.logging", "llamafactory.extras.misc", "llamafactory.data.data_utils")
    stub("llamafactory.extras.constants", DATA_CONFIG="dataset_info.json")
    [entry] = import_module("llamafactory.data.parser").get_dataset_list(["pseudoris"], str(export))
    media = SimpleNamespace(media_dir=str(export))
    convert = import_module("llamafactory.data.converter").SharegptDatasetConverter(entry, media)
    marks = {"IMAGE_PLACEHOLDER": "<image>", "VIDEO_PLACEHOLDER": "<video>", "AUDIO_PLACEHOLDER": "<audio>"}
    names = ("MMPluginMixin._preprocess_image", "MMPluginMixin._validate_messages")
    plugin = take(root / "llamafactory/data/mm_plugin.py", *names, math=math, **marks)
    for record in json.loads((export / entry.dataset_name).read_text(encoding="utf-8")):
        found = convert(record)
        [prompt], [response], [path] = found["_prompt"], found["_response"], found["_images"]
        plugin._validate_messages(None, [prompt, response], [path], [], [])
        frame = _NORM
        if limits is not None:
            areas = {"image_min_pixels": limits[0], "image_max_pixels": limits[1]}
            frame = _resized(plugin._preprocess_image(None, Image.open(path), **areas), _PROCESSOR_LIMITS)
        yield _answered(path, prompt["content"], response["content"], frame)


def qwen(root: Path, export: Path, *, limits: tuple[int, int] | None = None) -> Iterator[Seen]:
    """Give each record as `_build_messages` makes messages of it."""
    processor = root / "qwen-vl-finetune/qwenvl/data/data_processor.py"
    build = take(processor, "_build_messages", "_make_abs_paths", re=re, Path=Path)._build_messages
    for record in json.loads((export / "annotations.json").read_text(encoding="utf-8")):
        user, assistant = build(record, export)
        [image, question], [answer] = user["content"], assistant["content"]
        frame = _NORM if limits is None else _resized(Image.open(image["image"]), limits)
        yield _answered(image["image"], question["text"], answer["text"], frame)


def odvg(root: Path, export: Path) -> Iterator[Seen]:
    """Give each record of `ODVGDataset.load_data_list`."""
    bare(root, "mmdet", "mmdet.datasets")
    stub("mmdet.registry", DATASETS=SimpleNamespace(register_module=lambda: lambda each: each))
    base, facts = import_module("mmengine.dataset").BaseDataset, {"backend_args": None, "return_classes": True}
    stub("mmdet.datasets.base_det_dataset", BaseDetDataset=type("Base", (base,), facts))
    data = {"data_root": str(export), "ann_file": "annotations.jsonl", "data_prefix": {"img": "images/"}}
    for each in import_module("mmdet.datasets.odvg").ODVGDataset(**data, serialize_data=False).load_data_list():
        yield Seen(Path(each["img_path"]).name, each["text"], boxes=[one["bbox"] for one in each["instances"]])


def sam3(root: Path, export: Path) -> Iterator[Seen]:
    """Give each query of `Sam3ImageDataset`, masks decoded by `DecodeRle`, with the loader class in the export."""
    bare(root, "sam3", "sam3.model", "sam3.train", "sam3.train.data", "sam3.train.transforms")
    stub("decord", "iopath.common.file_io", g_pathmgr=_FILES)
    sys.path.insert(0, str(export))
    options = {"coco_json_loader": import_module("per_image_queries").PerImageQueries, "load_segmentation": True}
    options |= {"transforms": [import_module("sam3.train.transforms.segmentation").DecodeRle()], "training": True}
    places = {"img_folder": str(export / "images"), "ann_file": str(export / "annotations.json")}
    made = import_module("sam3.train.data.sam3_image_dataset").Sam3ImageDataset
    dataset = made(**places, **options, max_ann_per_img=200, multiplier=1)
    for number in range(len(dataset)):
        point, [meta] = dataset[number], dataset.coco.loadImagesFromDatapoint(int(dataset.ids[number]))
        [image] = point.images
        for query in point.find_queries:
            masks = [np.asarray(image.objects[at].segment) > 0 for at in query.object_ids_output]
            yield Seen(meta["file_name"], query.query_text, np.any([np.zeros(image.size, bool), *masks], axis=0))


def sa2va(
    root: Path, export: Path, *, module: str, name: str, images: str, at: str = "", **files: str
) -> Iterator[Seen]:
    """Give each text of `Sa2VAFinetuneDataset`, or of `Sa2VA01RefSeg`, which draws one for each mask when it starts.

    `images` is their folder beside the `files`, which lie in the folder `at` of the export.
    """
    bare(root / "projects/sa2va", "datasets")
    bare(root, "third_parts", "third_parts.mmdet", "third_parts.mmdet.datasets")
    base = root / "projects/sa2va/datasets/base.py"
    read = take(base, "Sa2VADatasetMixin._read_image", Image=Image)._read_image
    stub("datasets.base", Sa2VABaseDataset=type("Base", (), {"__init__": lambda _, **__: None, "_read_image": read}))
    stub("datasets.common", SEG_QUESTIONS=["{class_name}"], ANSWER_LIST=["[SEG]"])
    places = {"data_root": str(export / at), "data_prefix": {"img_path": images}}
    made = getattr(import_module(f"datasets.{module}"), name)(**places, **files, serialize_data=False)
    # Of an image `Sa2VA01RefSeg` draws three; here all.
    vars(np.random)["choice"] = lambda drawn, *_, **__: drawn
    for found in map(made._parse_annotations, made.load_data_list()):
        questions = [turn["value"] for turn in found["conversations"] if turn["from"] == "human"]
        for text, mask in zip(questions, found["masks"].numpy(), strict=True):
            yield Seen(Path(found["image"]).name, text.removeprefix("<image>\n"), mask == 1)


def rela(root: Path, export: Path, *, dataset: str) -> Iterator[Seen]:
    """Give each record of `load_grefcoco_json` or `load_refcoco_json`, its polygons filled as the mapper does."""
    bare(root / "gres_model/data", "datasets")
    stub(*_DRAWING)
    stub("detectron2.structures", "detectron2.utils.file_io", PathManager=_FILES)
    stub("fvcore.common.timer", Timer=type("Timer", (), {"seconds": lambda _: 0.0}))
    read = getattr(import_module(f"datasets.{dataset}"), f"load_{dataset}_json")
    names = ("convert_coco_poly_to_mask", "RefCOCOMapper._merge_masks")
    world = {"coco_mask": import_module("pycocotools.mask"), "torch": import_module("torch")}
    mapper = take(root / "gres_model/data/dataset_mappers/refcoco_mapper.py", *names, **world)
    for each in read(str(export), dataset, "unc", "train", str(export / _TRAIN)):
        polygons = [one["segmentation"] for one in each["annotations"] if not one.get("empty")]
        masks = mapper.convert_coco_poly_to_mask(polygons, each["height"], each["width"])
        united = mapper._merge_masks(masks.int())[0].numpy() == 1
        yield Seen(Path(each["file_name"]).name, each["sentence"]["raw"], united)


def lisa_family(
    root: Path, export: Path, *, module: str, at: tuple[int, int], name: str = "ReferSegDataset", **data: Any
) -> Iterator[Seen]:
    """Give all texts of all images of a data set of LISA or its children, which draws images and texts at random.

    `at` are the places of the masks and of the texts in a sample.
    """
    bare(root, "data", "utils", "model", "model.llava", "dataset", "dataset.utils", "dataset.segm_datasets", "tools")
    stub(*_DRAWING, "transformers", "utils.dataset")
    stub("utils.utils", ANSWER_LIST=["[SEG]"], SHORT_QUESTION_LIST=["{class_name}"], LONG_QUESTION_LIST=["{sent}"])
    # It resizes images, and no masks.
    side = type("ResizeLongestSide", (), {"__init__": lambda *_: None, "apply_image": lambda _, image: image})
    stub("model.segment_anything", "model.SAM.utils.transforms", ResizeLongestSide=side)
    stub("model.segment_anything.utils.transforms", ResizeLongestSide=side)
    base = export.with_name(f"{export.name}-base")
    links = {"refer_seg": export, "reason_seg": export / "reason_seg", "Refer_Segm/grefcoco": export / "grefcoco"}
    for place, target in {**links, "Refer_Segm/coco_2014/train2014": export / _TRAIN}.items():
        (base / place).parent.mkdir(parents=True, exist_ok=True)
        (base / place).unlink(missing_ok=True)
        (base / place).symlink_to(target)
    dataset = getattr(import_module(module), name)(str(base), **data, num_classes_per_sample=10**6)
    [held] = (vars(dataset)[each] for each in _HOLD_IMAGES if each in vars(dataset))
    for number in range(len(held[0] if isinstance(held, tuple) else next(iter(held.values()))["images"])):
        # Of data sets, of which there is one; or of an image.
        vars(random)["randint"] = lambda _, high, number=number: min(high, number)
        sample = dataset[number]
        beside = Path(sample[0]).with_suffix(".json")
        # ReasonSeg's images are copies: one for each set of masks.
        image = json.loads(beside.read_text())["source_image_id"] if beside.exists() else Path(sample[0]).name
        texts = np.ravel(sample[at[1]]).tolist()
        yield from (Seen(image, text, mask == 1) for text, mask in zip(texts, sample[at[0]].numpy(), strict=True))


def x_sam(root: Path, export: Path) -> Iterator[Seen]:
    """Give each expression that `ImgRefSegDataset` trains on, once."""
    bare(root / "xsam", "xsam", "xsam.dataset", "xsam.dataset.utils", "xsam.utils")
    stub(*_DRAWING, "xsam.registry", "xsam.utils.comm", "xsam.utils.logging", "xsam.dataset.utils.encode")
    stub("xsam.utils.constants", "xsam.dataset.utils.catalog", DEFAULT_TASKS=["img_refseg"])
    names = {"dataset": "refcoco", "data_name": "refcoco", "data_split": "train"}
    made = import_module("xsam.dataset.img_refseg_dataset").ImgRefSegDataset(data_root=str(export), **names)
    given: set[tuple[str, int]] = set()
    for each in made.data:
        masks = made._decode_ann_data(dict(each))["mask_labels"].numpy()
        for text, annotation, mask in zip(each["sampled_sents"], each["annotations"], masks, strict=True):
            if (text, annotation["id"]) not in given:
                given.add((text, annotation["id"]))
                yield Seen(each["image_file"], text, mask == 1)


def detris(root: Path, export: Path) -> Iterator[Seen]:
    """Give each sentence of `RefDataset`, from the LMDB that `folder2lmdb` makes.

    `serialize`, which pyarrow has lost since, is pickle: it takes records into the LMDB, and back as they were.
    """
    stub("pyarrow", serialize=lambda it: SimpleNamespace(to_buffer=lambda: pickle.dumps(it)), deserialize=pickle.loads)
    bare(root, "tools", "utils")
    images, masks, made = export / "images/train2014", export / "masks/refcoco", export.with_name("detris-lmdb")
    made.mkdir(exist_ok=True)
    records = json.loads((export / "anns/refcoco/train.json").read_text(encoding="utf-8"))
    import_module("tools.folder2lmdb").folder2lmdb(records, images, masks, made, "train")
    module: Any = import_module("utils.dataset")
    module.info["refcoco"]["train"] = len(records)
    seen, loads, tokenize = dict[str, Any](), module.loads_pyarrow, module.tokenize
    # What it reads and does not give: the record of a sample, and its sentence before it becomes tokens.
    module.loads_pyarrow = lambda data: [seen.update(record=loads(data)), seen["record"]][1]
    module.tokenize = lambda text, *rest: [seen.update(text=text), tokenize(text, *rest)][1]
    dataset = module.RefDataset(str(made / "train.lmdb"), str(masks), "refcoco", "train", "train", _SIDE, 17)
    for number, record in enumerate(records):
        for place in range(record["sentences_num"]):
            vars(np.random)["choice"] = lambda _, place=place: place
            warped, name = dataset[number][2].numpy() > 0.5, seen["record"]["img_name"]
            width, height = Image.open(images / name).size
            top, left = (_SIDE - height) // 2, (_SIDE - width) // 2
            yield Seen(name, seen["text"], warped[top : top + height, left : left + width])


def fiftyone(_root: Path, export: Path) -> Iterator[Seen]:
    """Give each detection of `COCODetectionDatasetImporter`, with the key `expressions` of its annotation."""
    importer = import_module("fiftyone.utils.coco").COCODetectionDatasetImporter
    places = {"data_path": str(export / "images"), "labels_path": str(export / "annotations/instances_train.json")}
    with importer(**places, label_types=["segmentations"]) as samples:
        for path, size, labels in samples:
            for each in labels.detections:
                whole = np.zeros((size.height, size.width), bool)
                left, top = round(each.bounding_box[0] * size.width), round(each.bounding_box[1] * size.height)
                whole[top : top + each.mask.shape[0], left : left + each.mask.shape[1]] = each.mask
                yield from (Seen(Path(path).name, text, whole) for text in each["expressions"])


def label_studio(_root: Path, export: Path) -> Iterator[Seen]:
    """Give each region of a task that `LabelInterface` finds valid, its strokes decoded by `brush.decode_rle`."""
    interface = import_module("label_studio_sdk.label_interface").LabelInterface((export / "config.xml").read_text())
    decode = import_module("label_studio_sdk.converter.brush").decode_rle
    for task in json.loads((export / "tasks.json").read_text(encoding="utf-8")):
        [prediction], masks = task["predictions"], dict[str, Any]()
        if errors := interface.validate_prediction(prediction, return_errors=True):
            raise ValueError(f"{task['data']}: {errors}")
        for region in prediction["result"]:
            size, value = (region["original_height"], region["original_width"]), region["value"]
            if region["type"] == "brushlabels":
                masks[region["id"]] = np.asarray(decode(value["rle"])).reshape(*size, 4)[..., 3] == 255
            mask = masks.get(region["id"], np.zeros(size, bool))
            yield from (Seen(Path(task["data"]["image"]).name, text, mask) for text in value.get("text", ()))


def detection_example(root: Path, export: Path) -> Iterator[Seen]:
    """Give each box of `augment_and_transform_batch`, with the mask and the expressions beside it."""
    script = root / "examples/pytorch/object-detection/run_object_detection.py"
    names = ("augment_and_transform_batch", "format_image_annotations_as_coco", "convert_bbox_yolo_to_pascal")
    corners = import_module("transformers.image_transforms").center_to_corners_format
    example = take(script, *names, np=np, torch=import_module("torch"), center_to_corners_format=corners)
    processor = import_module("transformers").DetrImageProcessor(do_resize=False)
    cache = str(export.parent / "datasets-cache")
    for row in import_module("datasets").load_dataset(str(export), split="train", cache_dir=cache):
        batch = {name: [row[name]] for name in ("image_id", "image", "objects")}
        # No augmentation: `dict` returns what it is given.
        [found] = example.augment_and_transform_batch(batch, dict, processor)["labels"]
        boxes = example.convert_bbox_yolo_to_pascal(found["boxes"], found["orig_size"]).numpy().round().tolist()
        for box, pixels, texts in zip(boxes, row["objects"]["mask"], row["objects"]["expressions"], strict=True):
            yield from (Seen(row["source_image_id"], text, np.asarray(pixels) > 0, [box]) for text in texts)


def mlcroissant(_root: Path, export: Path) -> Iterator[Seen]:
    """Give each expression of `Dataset.records`, after its own validation of the description."""
    for row in import_module("mlcroissant").Dataset(str(export / "croissant.json")).records("default"):
        image = row["default/image_id"].decode()
        for mask in row["default/masks"]:
            pixels, texts = np.asarray(mask["default/masks/mask"]) > 0, mask["default/masks/expressions"]
            yield from (Seen(image, text.decode(), pixels) for text in texts)
