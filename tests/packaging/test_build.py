"""What a build says and chooses: the compiler, CUDA, and what CMake installs without Python."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The test extra brings one, beside an interpreter whose directory need not be in PATH.
CMAKE = shutil.which("cmake", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")

pytestmark = pytest.mark.skipif(not (CMAKE and shutil.which("make")), reason="needs cmake and make")


def configure(folder: Path, *options: str, **env: str) -> subprocess.CompletedProcess:
    clean = {k: v for k, v in os.environ.items() if k not in ("CMAKE_ARGS", "CUDACXX", "CUDA_PATH")}
    command = [
        CMAKE,
        f"-S{ROOT}",
        f"-B{folder}",
        "-GUnix Makefiles",
        "-DORT_TCONV_BUILD_PYTHON=OFF",
    ]
    return subprocess.run(
        [*command, *options], env=clean | env, capture_output=True, text=True, timeout=300
    )


def first_words(stderr: str) -> str:
    """The first line of CMake's first error, below the line that says where."""
    return re.search(r"CMake Error at CMakeLists.txt:\d+ \(message\):\n\s*(.*)", stderr)[1]


def test_without_a_compiler_the_first_line_says_so(tmp_path):
    result = configure(tmp_path, CXX="no-such-compiler")
    assert result.returncode != 0
    assert first_words(result.stderr).startswith("No C++ compiler was found")
    # Nothing of CMake's own stands before it.
    assert result.stderr.startswith("CMake Error at CMakeLists.txt")
    assert "apt install g++" in result.stderr


@pytest.fixture
def headers(tmp_path):
    """Headers enough to configure with."""
    folder = tmp_path / "headers"
    folder.mkdir()
    (folder / "onnxruntime_c_api.h").write_text("#define ORT_API_VERSION 21\n")
    (folder / "onnxruntime_cxx_api.h").write_text("")
    return f"-DORT_TCONV_ORT_INCLUDE_DIR={folder}"


def test_cuda_is_not_chosen_by_what_is_installed(tmp_path, headers):
    """An nvcc on the PATH makes no difference, and is not even run."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "nvcc").write_text(f"#!/bin/sh\ntouch {tmp_path}/called\nexit 1\n")
    (tools / "nvcc").chmod(0o755)
    result = configure(tmp_path / "build", headers, PATH=f"{tools}:{os.environ['PATH']}")
    assert result.returncode == 0, result.stderr
    assert "CUDA kernels: not built (ORT_TCONV_CUDA=OFF)" in result.stdout
    assert not (tmp_path / "called").exists()


def test_cuda_without_its_compiler_is_an_error(tmp_path, headers):
    result = configure(tmp_path / "build", headers, "-DORT_TCONV_CUDA=ON", CUDACXX="no-such-nvcc")
    assert result.returncode != 0
    assert first_words(result.stderr).startswith("ORT_TCONV_CUDA=ON needs nvcc")


def test_what_cmake_installs_is_found_by_cmake(tmp_path, headers):
    """Without Python: another layout than a wheel's, in which the CMake package finds the library.

    The library itself is not built here, which takes minutes; an empty file takes its place.
    """
    build, prefix = tmp_path / "build", tmp_path / "prefix"
    result = configure(build, headers, f"-DCMAKE_INSTALL_PREFIX={prefix}")
    assert result.returncode == 0, result.stderr
    (build / "libort_tconv.so").touch()
    command = [CMAKE, "-DCMAKE_INSTALL_DO_STRIP=OFF", "-P", build / "cmake_install.cmake"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    (library,) = prefix.rglob("libort_tconv.so")

    user = tmp_path / "user"
    user.mkdir()
    version = re.search(r'^version = "([\d.]+)', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    (user / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.21)\nproject(user LANGUAGES CXX)\n"
        f"find_package(ort_tconv {version} REQUIRED)\n"
        "get_target_property(path ort_tconv::ort_tconv IMPORTED_LOCATION)\n"
        'message(STATUS "FOUND ${path}")\n'
    )
    command = [CMAKE, f"-S{user}", f"-B{user}/build", "-GUnix Makefiles"]
    found = subprocess.run(
        [*command, f"-DCMAKE_PREFIX_PATH={prefix}"], capture_output=True, text=True, timeout=60
    )
    assert f"FOUND {library}\n" in found.stdout, found.stdout + found.stderr
