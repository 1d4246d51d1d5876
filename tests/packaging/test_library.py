"""The library must load into any process: it exports its entry points and drags nothing in."""

import re
import shutil
import subprocess

import pytest

import ort_tconv
from ort_tconv import _core

pytestmark = pytest.mark.skipif(
    shutil.which("readelf") is None, reason="readelf (binutils) missing"
)


def readelf(*options: str) -> str:
    command = ["readelf", "--wide", *options, str(ort_tconv.get_library_path())]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_exports_only_entry_points():
    defined = set()
    for line in readelf("--dyn-syms").splitlines():
        fields = line.split()
        # Num: Value Size Type Bind Vis Ndx Name
        if len(fields) == 8 and fields[4] in ("GLOBAL", "WEAK", "UNIQUE") and fields[6].isdigit():
            defined.add(fields[7].split("@")[0])
    provider = {"CreateEpFactories", "ReleaseEpFactory"} if _core.built_with_provider else set()
    assert defined == {"RegisterCustomOps"} | provider


def test_links_system_libraries_only():
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", readelf("--dynamic")))
    allowed = r"(libc|libm|libpthread|libdl|libgcc_s|ld-linux[-\w]*)\.so\.\d+"
    # Named one by one: libonnxruntime and libpython are the point, libstdc++ the usual accident.
    assert {n for n in needed if not re.fullmatch(allowed, n)} == set()


def test_asks_nothing_of_the_newest_c_libraries():
    """Which parts of g++ do if they are linked statically: with these two symbols the library would
    not load where the C library is older than 2.36."""
    assert not re.search(r"UND (arc4random|_dl_find_object)\b", readelf("--dyn-syms"))


def test_has_no_run_path():
    assert not re.search(r"\((RPATH|RUNPATH)\)", readelf("--dynamic"))


def test_says_whether_it_holds_cuda_kernels():
    """nvcc keeps device code in a section of its own."""
    assert (".nv_fatbin" in readelf("--section-headers")) == _core.built_with_cuda
