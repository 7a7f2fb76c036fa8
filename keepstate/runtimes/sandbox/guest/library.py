"""The standard library under a name of its own, `/python`, so that what agents see is the same on every machine.

Paths are in much of what honest code prints: tracebacks, warnings, `print(json)`, profiles. What is loaded when the
zygote starts is renamed; later imports find their files by the `Finder` or, at the rung namespaces, by a mount.
Frames of ours are all called `<sandbox>` and have line 1: their real names and lines differ from version to version.
The settings with which Python was built (`sysconfig`) are left as they are.
"""

from __future__ import annotations

import _imp
import gc
import linecache
import os
import sys
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from types import CodeType, FunctionType, ModuleType
from typing import Any

PREFIX = "/python"
OURS = "<sandbox>"
INSTALLED_PACKAGES = ("site-packages", "dist-packages")
"""Folders below the standard library that are no part of it."""

_places: dict[str, str] = {}
"""Where the folders of the library lie, and what they are called."""


def find() -> dict[str, str]:
    """Folders of the standard library, none beneath another, each with the name under which it is shown."""
    folders = [folder for folder in sys.path if os.path.isdir(folder)]
    own = [a for a in folders if not any(a.startswith(b + "/") for b in folders)]
    own.sort(key=lambda folder: not os.path.exists(f"{folder}/os.py"))
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return {folder: f"{PREFIX}/lib{number or ''}/{version}" for number, folder in enumerate(own)}


def rename(places: dict[str, str], ours: str, outermost: CodeType) -> None:
    """Rename Python and all that is loaded; what is loaded later comes under its new name.

    Args:
        places: What `find` gave.
        ours: The folder of this package.
        outermost: What runs in the first frame of this process.
    """
    _places.update(places)
    sys.prefix = sys.exec_prefix = sys.base_prefix = sys.base_exec_prefix = PREFIX
    sys.executable = sys._base_executable = f"{PREFIX}/bin/python3"  # type: ignore[attr-defined]
    sys._stdlib_dir = shown(str(sys._stdlib_dir))  # type: ignore[attr-defined]
    sys.argv[:] = [""]
    sys.orig_argv[:] = [sys.executable]
    sys.path[:] = [shown(folder) for folder in sys.path if os.path.isdir(folder)]
    sys.path_importer_cache.clear()
    sys.meta_path.insert(sys.meta_path.index(PathFinder), Finder)
    linecache.cache.clear()
    getattr(linecache, "_interactive_cache", {}).clear()  # Python 3.13 keeps the text of `python -c` there
    _imp._fix_co_filename(outermost, OURS)  # type: ignore[attr-defined]
    names: dict[str, str] = {}
    for thing in gc.get_objects():
        if type(thing) is FunctionType:
            code = thing.__code__
            if code.co_filename.startswith(f"{ours}/"):
                thing.__code__ = _anonymous(code)
            elif (name := names.setdefault(code.co_filename, shown(code.co_filename))) != code.co_filename:
                _imp._fix_co_filename(code, name)  # type: ignore[attr-defined]  # in place, and in the code inside of it
    for module in list(sys.modules.values()):
        _rename_module(module)
        if module.__name__.startswith("guest"):
            module.__file__ = module.__spec__ = module.__loader__ = None
            module.__path__ = []


def mounted() -> None:
    """The folders can be found under the names that are shown: no need to translate any more."""
    _places.clear()
    sys.path_importer_cache.clear()
    sys.meta_path.remove(Finder)


def shown(path: str) -> str:
    """The name of a path of the library as agents see it; other paths stay."""
    for folder, name in _places.items():
        if path == folder or path.startswith(f"{folder}/"):
            return name + path[len(folder) :]
    return path


def real(path: str) -> str:
    """Where the file that is shown as `path` lies."""
    for folder, name in _places.items():
        if path == name or path.startswith(f"{name}/"):
            return folder + path[len(name) :]
    return path


class Finder:
    """Imports of the library where its folders cannot be mounted elsewhere. Lists no folder: not all may be listed."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, _target: object = None) -> ModuleSpec | None:
        """As every finder of modules."""
        for folder in sys.path if path is None else path:
            base = f"{folder}/{name.rpartition('.')[2]}"
            if not isinstance(folder, str) or (there := real(base)) == base:
                continue
            if os.path.isfile(f"{there}/__init__.py"):
                source = f"{base}/__init__.py"
                return spec_from_file_location(
                    name, source, loader=_Source(name, source), submodule_search_locations=[base]
                )
            for suffix in EXTENSION_SUFFIXES:
                if os.path.isfile(there + suffix):
                    return spec_from_file_location(name, base + suffix, loader=_Extension(name, base + suffix))
            if os.path.isfile(f"{there}.py"):
                return spec_from_file_location(name, f"{base}.py", loader=_Source(name, f"{base}.py"))
        return None


class _Source(SourceFileLoader):
    """Reads where the file lies."""

    def get_data(self, path: str) -> bytes:
        return super().get_data(real(path))

    def path_stats(self, path: str) -> Any:
        return super().path_stats(real(path))


class _Extension(ExtensionFileLoader):
    """Loads from where the file lies."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = super().create_module(ModuleSpec(spec.name, self, origin=real(str(spec.origin))))
        module.__file__ = spec.origin
        return module


def _rename_module(module: ModuleType) -> None:
    spec = getattr(module, "__spec__", None)
    loader = getattr(spec, "loader", None)
    for holder, names in (
        (module, ("__file__", "__cached__")),
        (spec, ("origin", "cached")),
        (loader, ("path",)),
        (getattr(spec, "loader_state", None), ("filename",)),
    ):
        for name in names:
            if isinstance(value := getattr(holder, name, None), str):
                setattr(holder, name, shown(value))
    for folders in (getattr(module, "__path__", None), getattr(spec, "submodule_search_locations", None)):
        if isinstance(folders, list):
            folders[:] = map(shown, folders)
    if type(loader) is SourceFileLoader:
        loader.__class__ = _Source


def _anonymous(code: CodeType) -> CodeType:
    """The same code without file name and lines."""
    units = len(code.co_code) // 2
    # CPython's Objects/locations.md: kind 13, no column, for up to 8 units each; then how many lines further, 0
    table = b"".join(bytes([0x80 | 13 << 3 | min(8, units - at) - 1, 0]) for at in range(0, units, 8))
    constants = tuple(_anonymous(each) if isinstance(each, CodeType) else each for each in code.co_consts)
    return code.replace(co_filename=OURS, co_firstlineno=1, co_linetable=table, co_consts=constants)
