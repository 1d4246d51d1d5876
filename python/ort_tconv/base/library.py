"""Finds the native libraries and onnxruntime, and says what is missing."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

_PACKAGE = __name__.partition(".")[0]


def get_library_path() -> str:
    """Absolute path of the operator library, for ``SessionOptions.register_custom_ops_library``.

    The library lies beside the extension module ``_core``; in an editable install that is not where
    the Python files are.

    Raises ImportError if the package was not built.
    """
    core = importlib.util.find_spec(f"{_PACKAGE}._core")
    if core is None or core.origin is None:
        raise ImportError(
            "ort_tconv's native libraries are missing: these are its sources, not an installation; "
            "run `pip install .` in them"
        )
    library = Path(core.origin).resolve().with_name("libort_tconv.so")
    if not library.is_file():
        raise ImportError(f"the operator library {library} is missing; reinstall ort-tconv")
    return str(library)


def get_cmake_dir() -> str:
    """Absolute path of the CMake package, for ``-Dort_tconv_DIR=...`` of programs in C++.

    Raises ImportError if the package was not built.
    """
    return str(Path(get_library_path()).with_name("cmake"))


def import_onnxruntime() -> ModuleType:
    """onnxruntime, or an ImportError that says how to get it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            f"ort_tconv needs onnxruntime for this ({error}): run `pip install onnxruntime`, or "
            "`pip install onnxruntime-gpu` for CUDA"
        ) from error
    return onnxruntime
