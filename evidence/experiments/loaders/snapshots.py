"""Loads code of other projects from snapshots or installed packages: modules by path, or functions out of a file.

Most of these projects import a model, CUDA or a server in the file that holds their data set. Such imports are stubbed;
the lines that read an export are theirs, unchanged.
"""

from __future__ import annotations
import __future__

import ast
import subprocess
import sys
from importlib import metadata
from itertools import accumulate
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock


class MissingSnapshotError(Exception):
    """A repository or a package is not there, or another commit or version of it is."""


def root_of(folder: Path, source: str) -> Path:
    """Return the folder of a source: of `owner/name commit` its work tree in `folder`, of a package what holds it."""
    name, version = source.split()
    if "/" in name:
        tree, command = folder / name.replace("/", "+"), ("git", "rev-parse", "HEAD")
        found = subprocess.check_output(command, cwd=tree, text=True).strip() if tree.is_dir() else "none"
    else:
        package = next(iter(metadata.distributions(name=name)), None)
        tree, found = (Path(str(package.locate_file(""))), package.version) if package else (folder, "none")
    if not found.startswith(version):
        raise MissingSnapshotError(f"{tree} has {found} of {name}, not {version}")
    return tree


def stub(*names: str, **members: Any) -> None:
    """Put a module of mocks in the place of each name, and of its parents that are not there."""
    for name in names:
        for whole in accumulate(name.split("."), "{}.{}".format):
            if whole not in sys.modules:
                module: Any = ModuleType(whole)
                module.__path__, module.__getattr__ = [], _mocked
                sys.modules[whole] = module
                parent, _, own = whole.rpartition(".")
                if parent:
                    setattr(sys.modules[parent], own, module)
        vars(sys.modules[name]).update(members)


def _mocked(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return MagicMock(name=name)


def bare(root: Path, *names: str) -> None:
    """Make folders importable as packages without their `__init__`, which may import a model."""
    for name in names:
        package: Any = ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")))]
        sys.modules[name] = package


def take(path: Path, *names: str, **world: Any) -> SimpleNamespace:
    """Return functions of a file, `name` or `Class.name`, compiled without the rest of it and without decorators.

    They find `world` and each other as globals.
    """
    wanted, found = set(names), list[ast.FunctionDef]()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        inner = [(f"{node.name}.", each) for each in node.body] if isinstance(node, ast.ClassDef) else [("", node)]
        for prefix, each in inner:
            if isinstance(each, ast.FunctionDef) and f"{prefix}{each.name}" in wanted:
                wanted.remove(f"{prefix}{each.name}")
                each.decorator_list = []
                found.append(each)
    if wanted:
        raise MissingSnapshotError(f"{path} has no {', '.join(sorted(wanted))}")
    module, flags = ast.Module(list(found), type_ignores=[]), __future__.annotations.compiler_flag
    exec(compile(module, str(path), "exec", flags=flags, dont_inherit=True), world)
    return SimpleNamespace(**{each.name: world[each.name] for each in found})
