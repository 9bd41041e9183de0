"""OpenAI's own client tests against ``hone serve --conformance``: how many of them pass, suite by suite.

    python benchmarks/conformance.py                    # jobs, checkpoints, permissions, files, models, chat
    python benchmarks/conformance.py --all              # and graders, completions, embeddings
    python benchmarks/conformance.py --keep folder      # keep environment and downloads for the next time

The tests are those of the source distribution of ``openai`` on PyPI: they check the shape of every answer with the
client's own types. They run in an environment of their own, because they want other packages than hone.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

RELEASE = "3.51.0"
CANNOT_INSTALL = 75
"""Exit code where the client or what its tests need cannot be had (sysexits.h: try again later)."""

PACKAGES = ("pytest", "pytest-asyncio", "rich", "inline-snapshot", "trio")
SUITES = {
    "fine-tuning jobs": "fine_tuning/test_jobs.py",
    "job checkpoints": "fine_tuning/jobs/test_checkpoints.py",
    "checkpoint permissions": "fine_tuning/checkpoints/test_permissions.py",
    "files": "test_files.py",
    "models": "test_models.py",
    "chat completions": "chat",
}
FURTHER = {
    "graders": "fine_tuning/alpha/test_graders.py",
    "completions": "test_completions.py",
    "embeddings": "test_embeddings.py",
}


def main() -> int:
    """Run the suites and print the counts; 1 where a test does not pass, 75 where pip cannot fetch them."""
    options = _options()
    with _folder(options.keep) as folder:
        python, tests = _environment(folder, options.release)
        suites = {**SUITES, **FURTHER} if options.all else SUITES
        suites = {name: path for name, path in suites.items() if not options.only or name in options.only}
        began = time.monotonic()
        with _server(folder, options.base) as address:
            counts = {name: _run(python, tests, path, address, folder) for name, path in suites.items()}
        seconds = time.monotonic() - began
    failed = _print(counts, seconds)
    if options.json:
        found = {"release": options.release, "seconds": round(seconds, 1), "suites": counts}
        print(json.dumps(found, ensure_ascii=False, indent=2))
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--all", action="store_true", help="also graders, completions and embeddings")
    parser.add_argument("--only", action="append", metavar="SUITE", help="run this suite alone; may be repeated")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the environment there for the next time")
    parser.add_argument("--release", default=RELEASE, help=f"of openai on PyPI; {RELEASE} unless given")
    parser.add_argument("--base", help="what answers chat, as `hone serve --base` takes it")
    parser.add_argument("--json", action="store_true", help="print an object with the counts as well")
    return parser.parse_args()


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.absolute()
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _environment(folder: Path, release: str) -> tuple[Path, Path]:
    """A Python with the client and what its tests need, and the folder of the unpacked source distribution."""
    python, source = folder / "venv" / "bin" / "python", folder / f"openai-{release}"
    if not python.exists():
        venv.create(folder / "venv", with_pip=True)
        _pip(python, "install", f"openai[aiohttp]=={release}", *PACKAGES)
    if not source.exists():
        _pip(python, "download", "--no-binary", "openai", "--no-deps", f"openai=={release}", "--dest", str(folder))
        with tarfile.open(folder / f"openai-{release}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
    return python, source


def _pip(python: Path, *words: str) -> None:
    done = subprocess.run(
        [python, "-m", "pip", "--quiet", "--disable-pip-version-check", *words], check=False, stdout=sys.stderr
    )
    if done.returncode:
        print(f"pip could not {words[0]} {' '.join(words[1:])}: is there a package index?", file=sys.stderr)
        raise SystemExit(CANNOT_INSTALL)


@contextmanager
def _server(folder: Path, base: str | None) -> Iterator[str]:
    """The address of a server with an empty home but for the converted bases of this user's own."""
    with tempfile.TemporaryDirectory(dir=folder) as home:
        models = os.environ.get("HONE_HOME") and Path(os.environ["HONE_HOME"]) / "models"
        if models and models.is_dir():
            (Path(home) / "models").symlink_to(models)
        command = [sys.executable, "-m", "hone", "serve", "--conformance", "--port", "0"]
        command += ["--base", base] if base else []
        with subprocess.Popen(
            command, env={**os.environ, "HONE_HOME": home}, stderr=subprocess.PIPE, text=True
        ) as server:
            assert server.stderr is not None
            told = []
            for line in server.stderr:
                told.append(line)
                if found := re.search(r"Listening on (\S+)", line):
                    break
            else:
                raise SystemExit("the server did not start:\n" + "".join(told))
            try:
                yield found[1]
            finally:
                server.terminate()
                server.communicate()


def _run(python: Path, source: Path, path: str, address: str, folder: Path) -> dict[str, int]:
    """Counts of one suite."""
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += [f"tests/api_resources/{path}", f"--junitxml={report}", "-o", "addopts="]
    environment = {**os.environ, "TEST_API_BASE_URL": address, "PYTHONPATH": str(source / "src")}
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False)
    if not report.exists():
        raise SystemExit(f"{path} could not be run:\n{done.stdout}{done.stderr}")
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        kind = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        counts[kind] += 1
        if kind == "failed":
            print(f"failed: {case.get('classname')}::{case.get('name')}", file=sys.stderr)
    return counts


def _print(counts: dict[str, dict[str, int]], seconds: float) -> int:
    print(f"{'suite':<24}{'passed':>8}{'failed':>8}{'skipped':>9}")
    for name, one in {**counts, "all": _sum(counts)}.items():
        print(f"{name:<24}{one['passed']:>8}{one['failed']:>8}{one['skipped']:>9}")
    print(f"{seconds:.0f} s")
    return _sum(counts)["failed"]


def _sum(counts: dict[str, dict[str, int]]) -> dict[str, int]:
    return {kind: sum(one[kind] for one in counts.values()) for kind in ("passed", "failed", "skipped")}


if __name__ == "__main__":
    sys.exit(main())
