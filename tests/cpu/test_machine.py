"""What one core can use of a machine (custom_op/cpu/machine.h), by what the machine says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cases import Case, conv_transpose_model
from sessions import our_session

import ort_tconv
from ort_tconv import _core
from ort_tconv.base import machine

KIB, MIB = 1 << 10, 1 << 20


def cpuid(level: int, size: int, sharers: int, kind: int = 3) -> tuple[int, int, int, int]:
    """A subleaf of cpuid's list of caches: lines of 64 bytes, one way."""
    return kind | level << 5 | (sharers - 1) << 14, 63, size // 64 - 1, 0


def files(level: int, size: str, shared: str, kind: str = "Unified") -> dict[str, str]:
    return {
        "level": f"{level}\n",
        "type": f"{kind}\n",
        "size": f"{size}\n",
        "shared_cpu_list": f"{shared}\n",
    }


def core(first: int, last: int, l2: str, l3: str | None, cores: str) -> list[dict[str, str]]:
    """Files of a core with logical processors first..last, of a package of processors ``cores``."""
    own = f"{first}-{last}" if last > first else f"{first}"
    return [
        files(1, "32K", own, "Data"),
        files(1, "32K", own, "Instruction"),
        files(2, l2, own),
        *([files(3, l3, cores)] if l3 else []),
    ]


def concluded(**answers: Any) -> dict[str, int]:
    return _core.machine({"processors": 1, **answers})


# ---- made-up machines ----------------------------------------------------------------------------


def test_server_cache_of_a_whole_host_seen_by_a_small_guest() -> None:
    """260 MiB for a guest of 2: whether the processor tells who else shares it or not."""
    seen = [core(0, 0, "2048K", "266240K", "0-1"), core(1, 1, "2048K", "266240K", "0-1")]
    for sharers in (128, 2, 1):
        caches = [cpuid(1, 48 * KIB, 1, 1), cpuid(2, 2 * MIB, 1), cpuid(3, 260 * MIB, sharers)]
        found = concluded(cpuid_caches=caches, sysfs=seen, processors=2)
        assert found["threads"] == 2
        assert found["l2_bytes"] == 2 * MIB
        assert found["l3_bytes"] == 2 * MIB
        assert found["l3_sharers"] == max(2, sharers)


def test_that_server_itself() -> None:
    """Without a hypervisor the share is what falls to each of all its processors."""
    caches = [cpuid(1, 48 * KIB, 2, 1), cpuid(2, 2 * MIB, 2), cpuid(3, 260 * MIB, 128)]
    found = concluded(cpuid_caches=caches, bare=True, processors=120)
    assert found == {
        "threads": 120,
        "l2_bytes": 2 * MIB,
        "l3_bytes": 260 * MIB // 128,
        "l3_sharers": 128,
    }


def test_no_files() -> None:
    caches = [cpuid(1, 32 * KIB, 2, 1), cpuid(2, MIB, 2), cpuid(3, 16 * MIB, 16)]
    found = concluded(cpuid_caches=caches, bare=True, processors=16)
    assert found == {"threads": 16, "l2_bytes": MIB, "l3_bytes": MIB, "l3_sharers": 16}


def test_files_alone() -> None:
    """As on processors without cpuid, which do not tell of a hypervisor either."""
    each = [core(i, i, "1024K", "32768K", "0-63") for i in range(4)]
    found = concluded(sysfs=each, processors=4)
    assert found == {"threads": 4, "l2_bytes": MIB, "l3_bytes": 512 * KIB, "l3_sharers": 64}


def test_no_third_level() -> None:
    for answers in (
        {"sysfs": [core(0, 0, "1024K", None, "")]},
        {"cpuid_caches": [cpuid(1, 32 * KIB, 1, 1), cpuid(2, MIB, 1)], "bare": True},
    ):
        found = concluded(**answers)
        assert (found["l2_bytes"], found["l3_bytes"]) == (MIB, 0)
        plan = _core.plan([1, 64, 8, 8], [64, 64, 4, 4], machine=found)
        assert plan["tasks"] >= 1


@pytest.mark.parametrize("bare, share", [(True, 2 * MIB), (False, 2 * MIB)])
def test_32_mib_for_8_cores(bare: bool, share: int) -> None:
    caches = [cpuid(1, 32 * KIB, 2, 1), cpuid(2, 512 * KIB, 2), cpuid(3, 32 * MIB, 16)]
    each = [core(2 * i, 2 * i + 1, "512K", "32768K", "0-15") for i in range(8) for _ in (0, 1)]
    found = concluded(cpuid_caches=caches, sysfs=each, bare=bare, processors=16)
    assert found == {"threads": 16, "l2_bytes": 512 * KIB, "l3_bytes": share, "l3_sharers": 16}


def test_stacked_cache_of_a_desktop_is_believed() -> None:
    caches = [cpuid(1, 32 * KIB, 1, 1), cpuid(2, MIB, 1), cpuid(3, 96 * MIB, 8)]
    assert concluded(cpuid_caches=caches, bare=True)["l3_bytes"] == 12 * MIB
    assert concluded(cpuid_caches=caches)["l3_bytes"] == 2 * MIB


def hybrid(kinds: str = "pe") -> dict[str, Any]:
    """Two cores of 2 threads and 1.25 MiB, four that share 2 MiB, and 12 MiB for all."""
    large = [core(2 * i, 2 * i + 1, "1280K", "12288K", "0-7") for i in (0, 1) for _ in (0, 1)]
    small = [
        [
            files(1, "32K", f"{i}", "Data"),
            files(2, "2048K", "4-7"),
            files(3, "12288K", "0-7"),
        ]
        for i in range(4, 8)
    ]
    chosen = (large if "p" in kinds else []) + (small if "e" in kinds else [])
    return {"sysfs": chosen, "processors": len(chosen), "hybrid": True, "bare": True}


def test_cores_of_two_kinds() -> None:
    """Threads run on any: the least holds.  Which core cpuid was asked on changes nothing."""
    large = [cpuid(1, 48 * KIB, 2, 1), cpuid(2, 1280 * KIB, 2), cpuid(3, 12 * MIB, 16)]
    small = [cpuid(1, 32 * KIB, 1, 1), cpuid(2, 2 * MIB, 4), cpuid(3, 12 * MIB, 16)]
    either = [concluded(**hybrid(), cpuid_caches=caches) for caches in (large, small)]
    assert either[0] == either[1]
    assert either[0]["l2_bytes"] == 512 * KIB
    assert either[0]["l3_bytes"] == 12 * MIB // 8


def test_affinity_to_one_kind_of_cores() -> None:
    assert concluded(**hybrid("p"))["l2_bytes"] == 1280 * KIB
    assert concluded(**hybrid("e"))["l2_bytes"] == 512 * KIB
    assert concluded(**hybrid("p"))["threads"] == 4


def test_cores_of_two_kinds_without_files() -> None:
    """cpuid alone speaks of one kind, by chance: nothing is known."""
    caches = [cpuid(2, 1280 * KIB, 2), cpuid(3, 12 * MIB, 16)]
    found = concluded(cpuid_caches=caches, hybrid=True, bare=True)
    assert found == concluded()


@pytest.mark.parametrize(
    "answers",
    [
        {},
        {"sysfs": [[]]},
        {"sysfs": [[files(2, "", "0")]]},
        {"sysfs": [[files(2, "-1", "x"), files(3, "lots", "3-1")]]},
        {"sysfs": [[{}]]},
        {"cpuid_caches": [(0, 0, 0, 0)]},
    ],
)
def test_no_answers(answers: dict[str, Any]) -> None:
    found = concluded(**answers)
    assert found == {"threads": 1, "l2_bytes": 256 * KIB, "l3_bytes": MIB, "l3_sharers": 1}


def test_absurd_second_level() -> None:
    """What virtual machines without the host's answers say: 4 MiB, for each."""
    for l2 in (4 * MIB, 64 * MIB):
        assert concluded(cpuid_caches=[cpuid(2, l2, 1)])["l2_bytes"] == 256 * KIB
    assert concluded(cpuid_caches=[cpuid(2, 3 * MIB, 1)], bare=True)["l2_bytes"] == 2 * MIB
    assert concluded(cpuid_caches=[cpuid(2, 16 * KIB, 1)], bare=True)["l2_bytes"] == 128 * KIB


def test_of_two_answers_the_smaller_one() -> None:
    caches = [cpuid(2, MIB, 1), cpuid(3, 32 * MIB, 64)]
    seen = [core(0, 0, "512K", "65536K", "0-7")]
    found = concluded(cpuid_caches=caches, sysfs=seen, bare=True)
    assert (found["l2_bytes"], found["l3_bytes"], found["l3_sharers"]) == (512 * KIB, 512 * KIB, 64)


# ---- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits, threads",
    [
        ({}, 8),
        ({"cpu_max": ["50000 100000\n"]}, 1),
        ({"cpu_max": ["max 100000\n"]}, 8),
        ({"cpu_max": ["max 100000\n", "150000 100000\n"]}, 2),
        ({"cpu_max": ["400000 100000\n", "300000 100000\n"]}, 3),
        ({"cpu_max": ["1600000 100000\n"]}, 8),
        ({"cpu_max": ["", "100000", "x y", "0 0"]}, 8),
        ({"most_threads": "3"}, 3),
        ({"most_threads": "12"}, 8),
        ({"most_threads": "9" * 30}, 8),
        ({"most_threads": "4", "cpu_max": ["200000 100000"]}, 2),
        ({"cfs": [("-1\n", "100000\n")]}, 8),
        ({"cfs": [("50000\n", "100000\n")]}, 1),
        ({"cfs": [("-1\n", "100000\n"), ("200000\n", "100000\n")]}, 2),
        ({"cfs": [("200000\n", "0\n")]}, 8),
        ({"cfs": [("400000", "100000")], "cpu_max": ["200000 100000"]}, 2),
    ],
)
def test_limit_of_a_container(limits: dict[str, Any], threads: int) -> None:
    assert concluded(processors=8, **limits)["threads"] == threads


def test_processors_unknown() -> None:
    assert _core.machine({})["threads"] == 1


def test_unknown_answer() -> None:
    with pytest.raises(TypeError, match="'cpus'"):
        _core.machine({"cpus": 3})  # type: ignore[typeddict-unknown-key]


# ---- this machine --------------------------------------------------------------------------------

ASK = """
import os, sys
from ort_tconv import _core
if len(sys.argv) > 1:
    os.sched_setaffinity(0, [int(sys.argv[1])])
print(_core.machine(), _core.plan([1, 512, 8, 8], [512, 256, 4, 4], threads=2)["text"])
"""


def asked(*arguments: str, **variables: str) -> str:
    package = str(Path(ort_tconv.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": package, **variables}
    command = [sys.executable, "-c", ASK, *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_process_gets_the_same_answer() -> None:
    assert len({asked() for _ in range(3)}) == 1


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
def test_affinity_of_the_process_is_honoured() -> None:
    cpu = min(os.sched_getaffinity(0))
    assert "'threads': 1" in asked(str(cpu))


def test_number_of_threads_in_the_environment() -> None:
    everything = _core.machine()["threads"]
    assert "'threads': 1," in asked(ORT_TCONV_THREADS="1")
    assert f"'threads': {everything}," in asked(ORT_TCONV_THREADS="100000")


@pytest.mark.parametrize("text", ["0", "-2", "four", "4 threads", " ", "1.5"])
def test_no_number_of_threads_in_the_environment(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in Python nor in a session, which works again when it is mended."""
    monkeypatch.setenv("ORT_TCONV_THREADS", text)
    message = f"environment variable ORT_TCONV_THREADS = '{text}': must be a positive number"
    with pytest.raises(_core.Error, match=message):
        _core.machine()
    model = conv_transpose_model(Case((4, 5), (3, 3), group_in=2, group_out=3, strides=(2, 2)))
    model = ort_tconv.convert(model)
    with pytest.raises(Exception, match=message):
        our_session(model)
    monkeypatch.setenv("ORT_TCONV_THREADS", "1")
    our_session(model)


def test_this_machine_is_concluded_from_its_answers() -> None:
    answers = _core.machine_answers()
    assert _core.machine(answers) == _core.machine()
    found = _core.machine()
    assert 1 <= found["threads"] <= answers["processors"]
    assert machine.usable_cores() == found["threads"]
    assert 128 * KIB <= found["l2_bytes"] <= 2 * MIB
    assert 0 <= found["l3_bytes"] <= 12 * MIB


# ---- in plans ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"l2_bytes": 0}, "l2_bytes = 0: must be positive"),
        ({"l3_bytes": -1}, "l3_bytes = -1: must be positive"),
        ({"l4_bytes": 1}, "'l4_bytes' is none of threads, l2_bytes, l3_bytes, l3_sharers"),
    ],
)
def test_machines_that_cannot_be(changes: dict[str, int], message: str) -> None:
    with pytest.raises(_core.Error, match=message):
        _core.plan([1, 8, 9], [8, 40, 4], machine=changes)  # type: ignore[arg-type]
