"""The answers of the arms: kept ones where the same model was asked the same before, new ones for the rest.

Base and tuned share one model in memory: the adapter is switched off for the arms of the base, so that nothing else
can differ.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from hone.data.formats import example_to_openai
from hone.errors import TemplateError
from hone.evaluation.arms import ArmResult
from hone.evaluation.likelihood import answer_bits
from hone.files import sha256_file
from hone.model.endpoint import Endpoint, ask_endpoint
from hone.model.generate import SamplingSettings, generate, shared_opening
from hone.model.lora import adapter_disabled
from hone.recipe.answer_cache import AnswerCache, KeptAnswer
from hone.recipe.contest import Contender, as_example
from hone.recipe.inference import Answerer, training_path
from hone.types import Example, JsonDict, Message, TokenSequence

__all__ = ["KEY_VARIABLE", "ArmAnswers", "asked_messages", "endpoint_result"]

KEY_VARIABLE = "HONE_ENDPOINT_KEY"
"""The environment variable that holds the key of an endpoint."""

Progress = Callable[[str, str, int], None]


@dataclass(frozen=True, slots=True)
class ArmAnswers:
    """Answers for one loaded model.

    Args:
        answerer: the model.
        limit_tokens: longest answer.
        cache_folder: where answers are kept; None keeps none.
        progress: told the arm, what is being done, and how many rows are done.
    """

    answerer: Answerer
    limit_tokens: int
    cache_folder: Path | None
    progress: Progress

    def result(self, contender: Contender, *, name: str | None = None, with_bits: bool) -> ArmResult:
        """Let an arm answer.

        Args:
            contender: the arm with its questions.
            name: what it is called in the result; the arm's own name unless given.
            with_bits: whether the likelihood of the references is measured too.
        """
        called = name or contender.arm
        cache = AnswerCache(self.cache_folder, self._made_with(is_tuned=contender.is_tuned))
        prompts = [question.prompt for question in contender.questions]
        bits = None
        with self._switched(is_tuned=contender.is_tuned):
            kept = self._answers(called, contender, prompts, cache)
            if with_bits:
                rendered = self._renderer(is_tuned=contender.is_tuned).render
                sequences = [rendered(as_example(question)).sequences[-1] for question in contender.questions]
                bits = self._bits(called, sequences, cache)
        cache.save()
        return ArmResult(
            arm=called,
            predictions=[self.answerer.text(answer.generation.ids).strip() for answer in kept],
            stopped=[answer.generation.stopped for answer in kept],
            output_tokens=[len(answer.generation.ids) for answer in kept],
            seconds=round(sum(answer.seconds for answer in kept), 3),
            bits=bits,
            reference_bytes=[] if bits is None else [_size(question.example) for question in contender.questions],
            prompt_tokens=[len(prompt) for prompt in prompts],
            shared_prompt_tokens=shared_opening(prompts) if len(prompts) > 1 else 0,
            how=contender.how,
        )

    def base_bits_per_byte(self, rows: Sequence[tuple[Example, tuple[Message, ...]]]) -> float | None:
        """Bits per byte of the base on rows with other turns before their answers; None where one is too long."""
        renderer = self._renderer(is_tuned=False)
        sequences = []
        for example, messages in rows:
            try:
                rendered = renderer.render(Example((*messages, example.messages[-1]), row=example.row))
            except TemplateError:
                return None
            sequences.append(rendered.sequences[-1])
        if not sequences:
            return None
        cache = AnswerCache(self.cache_folder, self._made_with(is_tuned=False))
        with self._switched(is_tuned=False):
            bits = self._bits("few_shot: how many examples", sequences, cache)
        cache.save()
        return sum(bits) / sum(_size(example) for example, _ in rows)

    def _answers(
        self, name: str, contender: Contender, prompts: Sequence[tuple[int, ...]], cache: AnswerCache
    ) -> list[KeptAnswer]:
        known = {prompt: found for prompt in set(prompts) if (found := cache.answer(prompt)) is not None}
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in known]
        done_before = len(prompts) - len(missing)
        started = time.perf_counter()
        given = generate(
            self.answerer.base.model,
            missing,
            stop_ids=self._renderer(is_tuned=contender.is_tuned).stop_ids,
            settings=SamplingSettings(max_new_tokens=self.limit_tokens),
            on_done=lambda done: self.progress(name, "answers", done_before + done),
        )
        each = round((time.perf_counter() - started) / max(1, len(missing)), 6)
        fresh = [KeptAnswer(generation, each) for generation in given]
        cache.keep_answers(missing, fresh)
        known |= dict(zip(missing, fresh, strict=True))
        return [known[prompt] for prompt in prompts]

    def _bits(self, name: str, sequences: Sequence[TokenSequence], cache: AnswerCache) -> list[float]:
        known = [cache.bits(sequence) for sequence in sequences]
        missing = [sequence for sequence, found in zip(sequences, known, strict=True) if found is None]
        model = self.answerer.base.model
        forward, attention = training_path(model, reference=self.answerer.reference_path)
        done_before = len(sequences) - len(missing)
        with attention:
            measured = answer_bits(
                model,
                missing,
                forward=forward,
                on_done=lambda done: self.progress(name, "likelihood", done_before + done),
            )
        cache.keep_bits(missing, measured)
        fresh = iter(measured)
        return [next(fresh) if found is None else found for found in known]

    def _renderer(self, *, is_tuned: bool) -> Any:
        return self.answerer.renderer_of("tuned" if is_tuned else "base")

    def _switched(self, *, is_tuned: bool) -> AbstractContextManager[None]:
        if is_tuned or not self.answerer.is_tuned:
            return nullcontext()
        return adapter_disabled(self.answerer.base.model)

    def _made_with(self, *, is_tuned: bool) -> JsonDict:
        """All that an answer depends on beside its prompt."""
        base, folder = self.answerer.base, self.answerer.run_folder
        adapter = folder / "adapter" if is_tuned and folder is not None else None
        weights = [] if adapter is None else [*sorted(adapter.glob("*.safetensors")), *adapter.glob("*config.json")]
        return {
            "base": base.base_hash,
            "adapter": {path.name: sha256_file(path) for path in weights},
            "quantize": self.answerer.notes.get("quantize"),
            "reference_path": self.answerer.reference_path,
            "dtype": str(base.dtype),
            "device": base.device,
            "max_new_tokens": self.limit_tokens,
            "stop_ids": list(self._renderer(is_tuned=is_tuned).stop_ids),
            "libraries": [torch.__version__, transformers.__version__],
        }


def endpoint_result(
    endpoint: Endpoint, examples: Sequence[Example], *, limit_tokens: int, progress: Progress
) -> ArmResult:
    """Let an endpoint answer the rows as they are. Its answers are not kept: who answers there may change unseen.

    Args:
        endpoint: who is asked; the key comes from the environment (``HONE_ENDPOINT_KEY``).
        examples: the held-out rows.
        limit_tokens: longest answer.
        progress: as for :class:`ArmAnswers`.

    Raises:
        ModelError, HoneError: as for :func:`hone.model.endpoint.ask_endpoint`.
    """
    conversations = [(asked_messages(one), list(map(dict, one.tools))) for one in examples]
    started = time.perf_counter()
    answers = ask_endpoint(
        endpoint,
        conversations,
        max_new_tokens=limit_tokens,
        key=os.environ.get(KEY_VARIABLE),
        on_done=lambda done: progress(endpoint.name, "answers", done),
    )
    read = [answer.prompt_tokens for answer in answers]
    written = [answer.tokens for answer in answers]
    return ArmResult(
        arm=endpoint.name,
        predictions=[answer.text.strip() for answer in answers],
        stopped=[answer.stopped for answer in answers],
        output_tokens=None if None in written else [count or 0 for count in written],
        seconds=round(time.perf_counter() - started, 3),
        prompt_tokens=None if None in read else [count or 0 for count in read],
        how={"endpoint": endpoint.url, "model": endpoint.model},
    )


def asked_messages(example: Example) -> list[JsonDict]:
    """The turns before the answer, in OpenAI's form."""
    messages = example_to_openai(example)["messages"][:-1]
    return [{key: value for key, value in message.items() if key != "weight"} for message in messages]


def _size(example: Example) -> int:
    return max(1, len(example.answer.encode()))
