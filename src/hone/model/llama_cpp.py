"""llama.cpp as a runtime beside hone: what it makes of a GGUF, asked through the package node-llama-cpp.

Its program (``llama_cpp.mjs``) gets one JSON object and gives one back. It is looked for in ``$HONE_NODE``, else in
``node`` of the home folder, and never in the working folder, whose code nobody asked to run. A prebuilt llama.cpp comes
with the package: nothing is compiled or fetched.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hone.errors import MissingDependencyError, ModelError

__all__ = ["LlamaCpp", "LlamaCppAnswer", "LlamaCppPrompt", "LlamaCppReading", "find_llama_cpp"]

_PROGRAM = Path(__file__).parent / "llama_cpp.mjs"
_PACKAGE = Path("node_modules", "node-llama-cpp")
_NO_BINARY = "NoBinaryFoundError"  # the package has no llama.cpp that runs on this machine
_MOST_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class LlamaCppPrompt:
    """A prompt, and an answer to be read after it.

    Args:
        text: of the prompt, special tokens written out.
        ids: token ids of the prompt.
        answer: token ids to be read after it; may be empty.
        messages: role and content of each turn, to be rendered with the file's own chat template; None leaves it out.
    """

    text: str
    ids: tuple[int, ...]
    answer: tuple[int, ...]
    messages: tuple[dict[str, str], ...] | None = None


@dataclass(frozen=True, slots=True)
class LlamaCppAnswer:
    """What llama.cpp made of one prompt.

    Args:
        text_ids: its tokens of the prompt's text.
        written: its own greedy answer, with the token that ended it.
        picks: the most likely token at each place of the given answer.
        logprobs: natural log-probability of each token of the given answer.
        rendered: the messages through the file's chat template; None where that was not asked for, or not possible.
    """

    text_ids: tuple[int, ...]
    written: tuple[int, ...]
    picks: tuple[int, ...]
    logprobs: tuple[float, ...]
    rendered: str | None


@dataclass(frozen=True, slots=True)
class LlamaCppReading:
    """What llama.cpp made of all prompts.

    Args:
        runtime: its release and the package's version.
        answers: one a prompt.
        ends: those of the stop tokens that it takes for the end of an answer.
        written_tokens: tokens that it wrote.
        writing_seconds: and the time that took, prompts included.
    """

    runtime: str
    answers: tuple[LlamaCppAnswer, ...]
    ends: frozenset[int]
    written_tokens: int
    writing_seconds: float


@dataclass(frozen=True, slots=True)
class LlamaCpp:
    """An installed llama.cpp.

    Args:
        node: the Node.js program.
        package: the folder of node-llama-cpp.
    """

    node: str
    package: Path

    def read(
        self, gguf: Path, prompts: Sequence[LlamaCppPrompt], *, stop_ids: Sequence[int], new_tokens: int
    ) -> LlamaCppReading:
        """Read a file, and answer and score every prompt on the processor.

        Args:
            gguf: the file.
            prompts: at least one.
            stop_ids: tokens that are to end an answer.
            new_tokens: most tokens that it writes itself for each; 0 leaves that out.

        Raises:
            MissingDependencyError: the package's llama.cpp does not run on this machine.
            ModelError: llama.cpp cannot read the file, or ended otherwise than it should; with its last words.
        """
        asked = {
            "package": str(self.package),
            "model": str(gguf),
            "prompts": [asdict(prompt) for prompt in prompts],
            "stops": list(stop_ids),
            "threads": torch.get_num_threads(),
            "newTokens": new_tokens,
        }
        try:
            ended = subprocess.run(
                [self.node, str(_PROGRAM)], input=json.dumps(asked, ensure_ascii=False), capture_output=True,
                encoding="utf-8", check=False, timeout=_MOST_SECONDS,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ModelError(f"llama.cpp did not answer: {error}", where=str(gguf)) from error
        if ended.returncode:
            raise self._failure(gguf, ended.stderr)
        found: Any = json.loads(ended.stdout.splitlines()[-1])
        return LlamaCppReading(
            runtime=found["runtime"],
            answers=tuple(_answer(one) for one in found["prompts"]),
            ends=frozenset(found["ends"]),
            written_tokens=found["tokens"],
            writing_seconds=found["seconds"],
        )

    def _failure(self, gguf: Path, said: str) -> ModelError | MissingDependencyError:
        if _NO_BINARY in said:
            return MissingDependencyError(
                "node-llama-cpp has no llama.cpp that runs on this machine", remedy="npx node-llama-cpp source build"
            )
        lines = [line.strip() for line in said.splitlines() if line.strip() and not line.lstrip().startswith("at ")]
        return ModelError("llama.cpp cannot use the file", where=str(gguf), details=lines[-6:])


def find_llama_cpp(home: Path) -> LlamaCpp | str:
    """The installed llama.cpp; where there is none, the reason and the line that installs it.

    Args:
        home: hone's home folder.
    """
    folder = Path(os.environ.get("HONE_NODE") or home / "node").expanduser()
    node = shutil.which("node")
    if node is None:
        return "Node.js is not installed"
    package = folder / _PACKAGE
    if not (package / "package.json").is_file():
        return f"llama.cpp is not installed: npm install --prefix {folder} --ignore-scripts node-llama-cpp"
    return LlamaCpp(node, package)


def _answer(one: Any) -> LlamaCppAnswer:
    end = () if one["wrote"] is None else (one["wrote"],)
    return LlamaCppAnswer(
        tuple(one["textIds"]), (*one["written"], *end), tuple(one["picks"]), tuple(one["logprobs"]), one["rendered"]
    )
