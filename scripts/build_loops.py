"""Compiles what the package has in C, beside its source; without a compiler it works, slower.

pip calls it through hatchling, for an editable installation, too.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MODULE = "averaging.codecs._loops"
STABLE_ABI = "0x030b0000"
"""Python 3.11: the first whose stable interface has buffers."""


class LoopsHook(BuildHookInterface):
    """One extension module."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before anything is packed."""
        from setuptools import Distribution, Extension
        from setuptools.command.build_ext import build_ext

        source = Path(MODULE.replace(".", "/"))
        extension = Extension(
            MODULE,
            [f"{source}.c"],
            # Bits are the same on every machine: see the source.
            extra_compile_args=["-O3", "-ffp-contract=off"],
            define_macros=[("Py_LIMITED_API", STABLE_ABI)],
            py_limited_api=True,
            optional=True,
        )
        command = build_ext(Distribution({"ext_modules": [extension]}))
        command.inplace = True
        # Not the one of an earlier source.
        for built in _built(source):
            built.unlink()
        with tempfile.TemporaryDirectory() as folder:
            command.build_lib, command.build_temp = f"{folder}/lib", f"{folder}/temp"
            command.ensure_finalized()
            command.run()
        if not _built(source):
            self.app.display_warning(
                f"{source}.c was not compiled, so PyTorch does its work, slower"
            )
            return
        build_data["artifacts"].append(f"{source}.*so")
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


def _built(source: Path) -> list[Path]:
    """The module, whatever this machine calls it; the build runs where the project lies."""
    return list(source.parent.glob(f"{source.name}.*so"))
