"""What setuptools calls to copy the package's modules into a wheel. Named by `pyproject.toml`."""

from __future__ import annotations

import shutil

from setuptools.command.build_py import build_py  # type: ignore[import-untyped]


class FreshBuild(build_py):  # type: ignore[misc]
    """Copies into an empty folder: the `build/` of an earlier install may hold modules that are deleted by now."""

    def run(self) -> None:
        """Delete what an earlier build left, and copy."""
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
