"""The search for ONNX Runtime's headers (cmake/OrtHeaders.cmake), without a network."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The test extra brings one, beside an interpreter whose directory need not be in PATH.
CMAKE = shutil.which("cmake", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")

needs_cmake = pytest.mark.skipif(CMAKE is None, reason="cmake is not installed")


def make_headers(directory: Path, api: int) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "onnxruntime_c_api.h").write_text(f"#define ORT_API_VERSION {api}\n")
    (directory / "onnxruntime_cxx_api.h").write_text("")
    return directory


def make_provider_headers(directory: Path, api: int) -> Path:
    make_headers(directory, api)
    (directory / "onnxruntime_ep_c_api.h").write_text("")
    return directory


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def find(tmp_path: Path, *options: str, **env: str) -> subprocess.CompletedProcess:
    """Runs the search as a script, which needs neither a compiler nor a build tool. In this mode
    CMake has no system prefixes, so that headers installed on this machine do not interfere.
    Releases are looked for in tmp_path/releases; the known headers are make_headers' of API 21."""
    known = [f"{p.name}={sha256(p)}" for p in make_headers(tmp_path / "known", 21).iterdir()]
    provider = [
        f"{p.name}={sha256(p)}" for p in make_provider_headers(tmp_path / "provider", 23).iterdir()
    ]
    script = tmp_path / "find.cmake"
    script.write_text(
        f'include("{ROOT}/cmake/OrtHeaders.cmake")\n'
        f'set(ORT_TCONV_ORT_RELEASES "file://{tmp_path}/releases")\n'
        f'set(ORT_TCONV_ORT_HEADERS "{";".join(known)}")\n'
        f'set(ORT_TCONV_PROVIDER_ORT_HEADERS "{";".join(provider)}")\n'
        'ort_tconv_find_ort_headers(directory)\nmessage("FOUND ${directory}")\n'
        'ort_tconv_find_provider_headers("${directory}" provider)\n'
        'message("PROVIDER [${provider}]")\n'
    )
    clean = {k: v for k, v in os.environ.items() if k not in ("CONDA_PREFIX", "CMAKE_PREFIX_PATH")}
    clean["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    clean.pop("ORT_TCONV_ORT_INCLUDE_DIR", None)
    return subprocess.run(
        [CMAKE, "-DORT_TCONV_DOWNLOAD=OFF", *options, "-P", script],
        cwd=tmp_path,
        env=clean | env,
        capture_output=True,
        text=True,
        timeout=60,
    )


@needs_cmake
def test_nothing_found_says_what_was_tried_and_what_to_do(tmp_path):
    result = find(tmp_path)
    assert result.returncode != 0
    for part in (
        "installed package:",
        "earlier download:",
        "ORT_TCONV_DOWNLOAD=OFF",
        "ORT_TCONV_ORT_INCLUDE_DIR",
        "libonnxruntime-dev",
    ):
        assert part in result.stderr


@needs_cmake
@pytest.mark.parametrize("how", ["variable", "environment"])
def test_named_directory(tmp_path, how):
    headers = str(make_headers(tmp_path / "named", api=25))
    if how == "variable":
        result = find(tmp_path, f"-DORT_TCONV_ORT_INCLUDE_DIR={headers}")
    else:
        result = find(tmp_path, ORT_TCONV_ORT_INCLUDE_DIR=headers)
    assert f"FOUND {headers}" in result.stderr


@needs_cmake
def test_named_directory_without_headers_is_an_error(tmp_path):
    make_headers(tmp_path / "cache/ort-tconv/onnxruntime-headers-1.21.0", api=21)
    result = find(tmp_path, ORT_TCONV_ORT_INCLUDE_DIR=str(tmp_path))
    assert result.returncode != 0
    assert "ORT_TCONV_ORT_INCLUDE_DIR: no onnxruntime_cxx_api.h" in result.stderr


@needs_cmake
def test_too_old_headers_are_named_with_both_versions(tmp_path):
    headers = make_headers(tmp_path / "old", api=17)
    result = find(tmp_path, ORT_TCONV_ORT_INCLUDE_DIR=str(headers))
    assert result.returncode != 0
    words = " ".join(result.stderr.split())  # CMake breaks long lines
    assert "API version 17" in words and "21 or newer" in words


@needs_cmake
@pytest.mark.parametrize("layout", ["", "/onnxruntime", "/onnxruntime/core/session"])
def test_installed_package(tmp_path, layout):
    headers = make_headers(tmp_path / f"prefix/include{layout}", api=21)
    result = find(tmp_path, CMAKE_PREFIX_PATH=str(tmp_path / "prefix"))
    assert f"FOUND {headers}" in result.stderr


@needs_cmake
def test_too_old_installed_package_is_passed_over(tmp_path):
    make_headers(tmp_path / "prefix/include", api=17)
    cached = make_headers(tmp_path / "cache/ort-tconv/onnxruntime-headers-1.21.0", api=21)
    result = find(tmp_path, CMAKE_PREFIX_PATH=str(tmp_path / "prefix"))
    assert f"FOUND {cached}" in result.stderr


# ---- the execution provider's ------------------------------------------------------------------


@needs_cmake
@pytest.mark.parametrize("api", [23, 27])
def test_the_operators_headers_serve_the_provider_if_they_have_its_api(tmp_path, api):
    headers = make_provider_headers(tmp_path / "named", api)
    result = find(tmp_path, ORT_TCONV_ORT_INCLUDE_DIR=str(headers))
    assert f"PROVIDER [{headers}]" in result.stderr


@needs_cmake
@pytest.mark.parametrize("make, api", [(make_headers, 25), (make_provider_headers, 22)])
def test_without_headers_the_provider_is_left_out_and_the_build_says_so(tmp_path, make, api):
    headers = make(tmp_path / "named", api)
    result = find(tmp_path, ORT_TCONV_ORT_INCLUDE_DIR=str(headers))
    assert result.returncode == 0 and "PROVIDER []" in result.stderr
    words = " ".join(result.stdout.split())
    assert "Execution provider: left out" in words
    for tried in ("headers of the operator:", "earlier download:", "ORT_TCONV_DOWNLOAD=OFF"):
        assert tried in words


@needs_cmake
def test_the_providers_headers_are_kept_by_themselves(tmp_path):
    operator = make_headers(tmp_path / "cache/ort-tconv/onnxruntime-headers-1.21.0", 21)
    provider = make_provider_headers(tmp_path / "cache/ort-tconv/onnxruntime-headers-1.23.2", 23)
    result = find(tmp_path)
    assert f"FOUND {operator}" in result.stderr and f"PROVIDER [{provider}]" in result.stderr
    (provider / "onnxruntime_ep_c_api.h").write_text("#error")
    result = find(tmp_path)
    assert result.returncode == 0 and "PROVIDER []" in result.stderr
    assert "onnxruntime_ep_c_api.h has the SHA-256" in " ".join(result.stdout.split())


# ---- downloads ---------------------------------------------------------------------------------


def download(tmp_path: Path, headers: Path, also: dict[str, str] | None = None):
    """The search where the release archive holds `headers`, and Debian's tools are missing."""
    names = [f"onnxruntime-linux-{machine}-1.21.0" for machine in ("x64", "aarch64")]
    (tmp_path / "releases/v1.21.0").mkdir(parents=True)
    for name, text in (also or {}).items():
        (headers / name).write_text(text)
    for name in names:
        with tarfile.open(tmp_path / f"releases/v1.21.0/{name}.tgz", "w:gz") as archive:
            archive.add(headers, f"{name}/include")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sh").symlink_to("/bin/sh")
    return find(tmp_path, "-DORT_TCONV_DOWNLOAD=ON", PATH=str(tools))


@needs_cmake
def test_download_of_known_headers_is_kept(tmp_path):
    result = download(tmp_path, make_headers(tmp_path / "release", 21), {"unknown.h": "?"})
    cache = tmp_path / "cache/ort-tconv/onnxruntime-headers-1.21.0"
    assert f"FOUND {cache}" in result.stderr
    # What has no known hash is left behind.
    assert sorted(p.name for p in cache.iterdir()) == [
        "onnxruntime_c_api.h",
        "onnxruntime_cxx_api.h",
    ]
    assert f"FOUND {cache}" in find(tmp_path).stderr


@needs_cmake
@pytest.mark.parametrize("name", ["onnxruntime_c_api.h", "onnxruntime_cxx_api.h"])
def test_download_with_one_byte_changed_is_refused(tmp_path, name):
    headers = make_headers(tmp_path / "release", 21)
    (headers / name).write_text((headers / name).read_text() + "\n")
    result = download(tmp_path, headers)
    assert result.returncode != 0 and "FOUND" not in result.stderr
    words = " ".join(result.stderr.split())
    assert f"{name} has the SHA-256 {sha256(headers / name)}, not" in words
    assert "Debian's libonnxruntime-dev: not a Debian system" in words
    assert not list((tmp_path / "cache").rglob("*.h"))


@needs_cmake
def test_earlier_download_that_was_changed_is_not_used(tmp_path):
    cache = make_headers(tmp_path / "cache/ort-tconv/onnxruntime-headers-1.21.0", 21)
    (cache / "onnxruntime_cxx_api.h").write_text("#error")
    result = find(tmp_path)
    assert result.returncode != 0
    assert "onnxruntime_cxx_api.h has the SHA-256" in " ".join(result.stderr.split())


def test_every_header_that_we_include_has_a_hash():
    text = (ROOT / "cmake/OrtHeaders.cmake").read_text()
    for name in ("c_api", "cxx_api", "cxx_inline", "float16", "ep_c_api"):
        assert re.search(rf"onnxruntime_{name}\.h=[0-9a-f]{{64}}\b", text)
    included = {
        line
        for folder in ("custom_op", "tests")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".h", ".cc", ".cu", ".cuh"}
        for line in re.findall(r"#include <(onnxruntime\w+\.h)>", path.read_text())
    }
    assert included == {"onnxruntime_c_api.h", "onnxruntime_cxx_api.h"}  # which include the others


# ---- Debian's package, with stand-ins for apt-get and dpkg-deb ---------------------------------

OS_RELEASE = Path("/etc/os-release")
needs_debian = pytest.mark.skipif(
    not OS_RELEASE.is_file() or "ID=debian" not in OS_RELEASE.read_text().splitlines(),
    reason="not a Debian system",
)

FAKE_APT = """#!/bin/sh
. /etc/os-release
case "$*" in
  *--print-uris*)
    echo "'http://third.example/apt/dists/stable/InRelease' x 0"
    echo "'http://debian.example/security/dists/$VERSION_CODENAME-security/InRelease' x 0"
    echo "'http://debian.example/debian/dists/$VERSION_CODENAME/InRelease' x 0" ;;
  *" update") cp "$PWD/sources.list" "$PWD/apt.conf" "$RECORD"; exit "${FAIL:-0}" ;;
  *" download libonnxruntime-dev") touch libonnxruntime-dev_1_amd64.deb ;;
  *" --download-only install python3 libc6")
    for name in python3 libc6 zlib1g; do touch cache/archives/${name}_1_arm64.deb; done ;;
  *) exit 1 ;;
esac
"""
FAKE_DPKG = """#!/bin/sh
test -f "$2" && touch "$3/${2%%_*}"
"""


@pytest.fixture
def fake_debian(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in {"apt-get": FAKE_APT, "dpkg-deb": FAKE_DPKG}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    (tmp_path / "record").mkdir()
    (tmp_path / "tmp").mkdir()

    def run(*root, packages=("libonnxruntime-dev",), **env):
        script = ["sh", str(ROOT / "cmake/debian_packages.sh"), *root]
        return subprocess.run(
            [*script, str(tmp_path / "out"), "trixie", *packages],
            env=os.environ
            | {
                "PATH": f"{tools}:{os.environ['PATH']}",
                "RECORD": str(tmp_path / "record"),
                "TMPDIR": str(tmp_path / "tmp"),
            }
            | env,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


@needs_debian
def test_debian_uses_this_machines_mirror_and_leaves_nothing_behind(fake_debian, tmp_path):
    result = fake_debian()
    assert result.returncode == 0, result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["libonnxruntime-dev"]
    source = (tmp_path / "record/sources.list").read_text()
    assert source.startswith("deb [signed-by=/usr/share/keyrings/")
    assert source.endswith("] http://debian.example/debian trixie main\n")
    # Every path of apt that could be written to is redirected.
    config = (tmp_path / "record/apt.conf").read_text()
    for setting in ("Dir::State", "Dir::Cache", "Dir::Etc::SourceList"):
        assert f'{setting} "{tmp_path}/tmp/' in config
    assert list((tmp_path / "tmp").iterdir()) == []


@needs_debian
def test_debian_packages_of_another_architecture_come_with_what_they_need(fake_debian, tmp_path):
    result = fake_debian("--root", "arm64", packages=("python3", "libc6"))
    assert result.returncode == 0, result.stderr
    unpacked = {path.name for path in (tmp_path / "out").iterdir()}
    assert unpacked == {"python3", "libc6", "zlib1g"}
    config = (tmp_path / "record/apt.conf").read_text()
    assert 'APT::Architecture "arm64";' in config and 'Dir::State::status "/dev/null";' in config
    assert list((tmp_path / "tmp").iterdir()) == []


@needs_debian
def test_debian_failure_names_the_step(fake_debian, tmp_path):
    result = fake_debian(FAIL="100")
    assert result.returncode != 0
    assert "apt-get update failed for http://debian.example/debian trixie" in result.stderr
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / "tmp").iterdir()) == []
