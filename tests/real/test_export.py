"""The embedded base with an adapter, as GGUF through llama.cpp: it reads, renders, answers and stops as hone does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from hone.data.render import Renderer
from hone.model.gguf_vocabulary import read_vocabulary
from hone.model.gguf_write import write_gguf
from hone.model.llama_cpp import LlamaCpp, LlamaCppPrompt, find_llama_cpp
from hone.model.load import load_base
from hone.model.lora import adapted_layers, attach_adapter, detach_adapter
from hone.proof.conversations import PROBE_CONVERSATIONS
from hone.proof.exported import RuntimeAnswer, check_exported, reference_answers

pytestmark = pytest.mark.real

NEW_TOKENS = 16


@pytest.fixture(scope="module")
def llama_cpp(real_home: Path) -> LlamaCpp:
    found = find_llama_cpp(real_home)
    if isinstance(found, str):
        pytest.skip(f"{found} (or name the folder where it is installed with HONE_NODE)")
    return found


def test_llama_cpp_answers_as_hone_does(
    llama_cpp: LlamaCpp, embedded_base: str, real_home: Path, tmp_path: Path
) -> None:
    base = load_base(embedded_base, home=real_home, device="cpu", dtype="float32", note=lambda _: None)
    renderer = Renderer(base.tokenizer, extra_stop_ids=base.generation_stop_ids)
    conversations = [(name, example.prompt) for name, example in PROBE_CONVERSATIONS if not example.tools]
    prompts = [(name, renderer.prompt_text(turns), renderer.prompt(turns)) for name, turns in conversations]
    plain = reference_answers(base.model, prompts, stop_ids=renderer.stop_ids, max_new_tokens=NEW_TOKENS)
    attach_adapter(base.model, rank=8, alpha=16.0, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for _, layer in adapted_layers(base.model):  # enough to change answers, and little enough to leave sentences
            layer.lora_B.copy_(0.01 * torch.randn(layer.lora_B.shape, generator=generator))
    tuned = reference_answers(base.model, prompts, stop_ids=renderer.stop_ids, max_new_tokens=NEW_TOKENS)
    assert [one.answer_ids for one in tuned] != [one.answer_ids for one in plain]
    detach_adapter(base.model, merge=True)
    vocabulary = read_vocabulary(
        base.tokenizer, num_rows=49152, chat_template=renderer.portable_template(), stop_ids=renderer.stop_ids
    )
    write_gguf(base.model, vocabulary, tmp_path / "tuned.gguf", weights="f16", name="tuned")
    asked = [
        LlamaCppPrompt(
            one.text, one.prompt_ids, one.answer_ids, tuple({"role": m.role, "content": m.content} for m in turns)
        )
        for one, (_, turns) in zip(tuned, conversations, strict=True)
    ]
    reading = llama_cpp.read(tmp_path / "tuned.gguf", asked, stop_ids=renderer.stop_ids, new_tokens=NEW_TOKENS)
    found = [RuntimeAnswer(one.picks, one.logprobs, one.written, one.text_ids, one.rendered) for one in reading.answers]
    assert all(one.rendered is not None for one in found)
    check = check_exported(
        tuned, found, runtime=reading.runtime, weights="f16", stop_ids=renderer.stop_ids, known_stops=reading.ends,
        token_text=renderer.token_text,
    )  # fmt: skip
    assert check.invariant.holds, check.invariant
    assert check.equal_tokens / check.tokens >= 0.99
    assert check.equal_answers >= check.answers - 1
    assert check.tokens >= 40
    assert check.difference_nats < 0.02
    os.remove(tmp_path / "tuned.gguf")  # 270 MB
