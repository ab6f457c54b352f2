"""Rooms that read folders of others open files through the run's storage, or as regular files: never by path alone."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = (
    *("audit", "viewer", "store/checks", "store/reports", "store/runs", "store/tables"),
    *(
        "training/calibration",
        "training/chooser",
        "interchange/dataset",
        "interchange/exclusions.py",
        "interchange/exports",
    ),
    *("interchange/imports", "training/learning", "training/ppt"),
    *("workers/checkpoints", "workers/masks", "files/filesystems.py"),
)
# By their last name, whatever stands before it.
OPENERS = {
    *("open", "read_text", "write_text", "read_bytes", "write_bytes", "FileIO", "copyfile", "copy2", "copytree"),
    *("load_file", "save_file", "safe_open", "SummaryWriter"),
    *("shutil.copy", "shutil.move", "torch.load", "torch.save", "np.load", "np.save", "np.savez", "pq.read_table"),
}
# What opens within a run's storage, or is no file.
HOLDERS = {
    "location",
    "destination",
    "RunLocation",
    "DatasetRun",
    "AuditFolder",
    "Parent",
    "ModelFolder",
    "cls",
    "fsspec",
}
NEW_FILE = "a new name of this process, given by `new_file`"
ALLOWED = {
    ("audit/audit_folder.py", "os.open"): "the audit's folder itself, to lock it",
    ("store/runs/lock.py", "boot.read_text"): "the kernel's own file, which tells one boot from another",
    ("training/chooser/candidate_masks.py", "safe_open"): "a file that is open as a regular one meanwhile",
    ("interchange/exports/cris.py", "lmdb.open"): NEW_FILE,
    ("interchange/exports/export_job.py", "local.open"): NEW_FILE,
    ("interchange/exports/json_pairs.py", "splits.open"): NEW_FILE,
    ("interchange/exports/json_pairs.py", "splits.write_text"): NEW_FILE,
    ("interchange/exports/output_files.py", "path.open"): NEW_FILE,
    ("interchange/exports/image_files.py", "Image.open"): "bytes in memory",
    ("interchange/exports/pseudo_ris_csv.py", "path.open"): NEW_FILE,
    ("interchange/exports/refer.py", "path.open"): NEW_FILE,
    ("interchange/exports/webdataset.py", "path.open"): NEW_FILE,
    ("interchange/exports/webdataset.py", "tarfile.open"): "a file that is open",
    ("training/learning/checkpoint_folder.py", "torch.save"): "a file that is open, of a random name",
    ("training/learning/trainer.py", "SummaryWriter"): "TensorBoard's own, whose name holds the time and the process",
    ("training/learning/trainer.py", "(folder / f'{preset}.yaml').read_text"): "presets of the package",
    ("training/ppt/point_generator.py", "self.read_text"): "a layer",
    ("training/ppt/recipes/grounded_runs.py", "names.read_bytes"): "a table that the user names, or a pipe",
    ("viewer/pages.py", "template.read_text"): "templates of the package",
    (
        "workers/checkpoints/model_configs.py",
        "(folder / f'{architecture}.json').read_text",
    ): "a model config of open_clip's package",
    ("workers/checkpoints/model_configs.py", "path.read_text"): "a model config that the user names, of bounded size",
    ("workers/checkpoints/model_configs.py", "text.read_text"): "a model config of this package",
    ("workers/checkpoints/tensor_files.py", "load_file"): "a file that is open as a regular one meanwhile",
    ("workers/checkpoints/tensor_files.py", "torch.load"): "the same",
    ("workers/checkpoints/weight_headers.py", "archive.open"): "a member of a file that is open",
    ("workers/checkpoints/weight_headers.py", "safe_open"): "a file that is open as a regular one meanwhile",
    ("files/filesystems.py", "filesystem.open"): "a store that is no disk",
}


def files(room: Path):
    return [room] if room.suffix else room.rglob("*.py")


def calls(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            holder, _, last = name.rpartition(".")
            if (last in OPENERS or name in OPENERS) and holder not in HOLDERS:
                yield path.relative_to(ROOT).as_posix(), name


def test_no_file_is_opened_by_its_path_alone():
    found = {call for room in ROOMS for path in files(ROOT / room) for call in calls(path)}
    assert found == set(ALLOWED), "open it with pseudoris.primitives.untrusted or through RunLocation"
