"""Loads code of other projects from snapshots in a folder: whole modules by path, or single functions out of a file.

Most of these projects import a model, CUDA or a server in the file that holds their data set. Such imports are stubbed;
the lines that read an export are theirs, unchanged.
"""

from __future__ import annotations
import __future__

import ast
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock


class MissingSnapshotError(Exception):
    """The folder lacks a snapshot or a package, or has another commit or version of it."""


def root_of(folder: Path, source: str) -> Path:
    """Return the folder of a source, such as `owner/name commit` or `package version`.

    A repository is a git work tree `owner+name`; of one that is too large `owner+name@commit` may hold the files that
    are read. A package is an unpacked wheel `package-version`, or is installed.
    """
    name, version = source.split()
    tree = folder / name.replace("/", "+")
    for part in (tree.with_name(f"{tree.name}@{version}"), tree.with_name(f"{tree.name}-{version}")):
        if part.is_dir():
            return part
    if "/" in name:
        command = ["git", "-C", str(tree), "rev-parse", "HEAD"]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout if tree.is_dir() else "none"
    else:
        found = next((each.version for each in metadata.distributions(name=name)), "none")
    if not found.startswith(version):
        raise MissingSnapshotError(f"{tree} or the environment has {found.strip()} of {name}, not {version}")
    return tree


def stub(*names: str, **members: Any) -> None:
    """Put a module of mocks in the place of each name, and of its parents that are not there."""
    for name in names:
        parts = name.split(".")
        for whole in (".".join(parts[: end + 1]) for end in range(len(parts))):
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


def load(name: str) -> Any:
    """Import a module."""
    return import_module(name)


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
