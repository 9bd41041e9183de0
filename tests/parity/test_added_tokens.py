"""Added tokens against PEFT's trainable tokens on a resized base: steps, files both ways, merging, the base beside."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from hone.data.token_list import read_token_list
from hone.errors import ConfigError, DataError, ModelError
from hone.model.adaptation import Adaptation, AttachOptions, attach_adaptation, load_adaptation
from hone.model.added_tokens import add_tokens, attach_tokens, pieces_of_tokens
from hone.model.lora import adapted_layers, adapter_disabled
from hone.model.merge import merge_and_save
from hone.types import AdaptationName, TokenSequence
from tests.parity.stepping import ROWS, assert_all_close, hone_steps, plain_steps
from tests.tiny import VOCABULARY, row_logits, tiny_model, tiny_tokenizer

RATE = 1e-3
PIECES = [[5, 6, 7], [20, 30], [40, 41, 42, 43]]
NEW = [VOCABULARY, VOCABULARY + 1, VOCABULARY + 2]
IDS = [9, 12, NEW[1], 40, NEW[0], NEW[2], 33, 5, 60]


def _with_new_ids(rows: list[TokenSequence]) -> list[TokenSequence]:
    """Every fifth token is an added one."""
    return [
        TokenSequence(
            tuple(NEW[at % 3] if (at + row.row) % 5 == 0 else token for at, token in enumerate(row.ids)),
            row.supervised,
            row.row,
        )
        for row in rows
    ]


def _ours(family: str, name: AdaptationName = "lora", dtype: torch.dtype = torch.float32) -> Adaptation:
    model: PreTrainedModel = tiny_model(family).to(dtype)  # type: ignore[assignment]
    options = AttachOptions(rank=4, alpha=8.0, seed=1, layers=None, originals=dict)
    ours = attach_adaptation(name, model, options)
    attach_tokens(model, PIECES, first_id=VOCABULARY)
    return ours


def _resized(family: str) -> PreTrainedModel:
    """The base as a user of PEFT makes it ready: three rows more, at the mean of their pieces."""
    model = tiny_model(family)
    model.resize_token_embeddings(VOCABULARY + 3, mean_resizing=False)
    with torch.no_grad():
        for module in (model.get_input_embeddings(), model.get_output_embeddings()):
            for token, pieces in zip(NEW, PIECES, strict=True):
                module.weight[token] = module.weight[pieces].mean(dim=0)
    return model


def _theirs(family: str, ours: Adaptation) -> PeftModel:
    model = _resized(family)
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM",
        trainable_token_indices={"embed_tokens": NEW, **({} if tied else {"lm_head": NEW})},
    )  # fmt: skip
    theirs = get_peft_model(model, config).eval()
    named = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, layer in adapted_layers(ours.model):
            named[f"base_model.model.{name}.lora_A.default.weight"].copy_(layer.lora_A)
    return theirs


@pytest.mark.parametrize("family", ["llama", "qwen2"], ids=["untied", "tied"])
def test_three_steps_equal_peft(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _with_new_ids(ROWS)
    monkeypatch.setattr("tests.parity.stepping.ROWS", rows)
    ours = _ours(family)
    theirs = _theirs(family, ours)
    torch.testing.assert_close(row_logits(ours.model, IDS), row_logits(theirs, IDS), atol=1e-5, rtol=1e-5)
    losses, _ = hone_steps(ours, tmp_path, rate=RATE, rows=rows)
    trainable = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
    assert losses == pytest.approx(plain_steps(theirs, trainable, rate=RATE), abs=1e-5)
    named = {
        name.removeprefix("base_model.model.")
        .replace(".token_adapter.trainable_tokens_delta.default", ".added_rows")
        .replace(".default.weight", ""): parameter
        for name, parameter in theirs.named_parameters()
    }
    parameters = ours.parameters()
    assert sum(name.endswith("added_rows") for name in parameters) == (1 if family == "qwen2" else 2)
    assert len(parameters) == len(trainable)
    assert_all_close(parameters, named)
    assert all(moved and finite for moved, finite in ours.parts().values())


@pytest.mark.parametrize("name", ["lora", "dora", "pissa"])
@pytest.mark.parametrize("family", ["llama", "qwen2"], ids=["untied", "tied"])
def test_saved_rows_load_in_peft_in_hone_and_merged(family: str, name: AdaptationName, tmp_path: Path) -> None:
    ours = _ours(family, name)
    hone_steps(ours, tmp_path, rate=RATE, rows=_with_new_ids(ROWS))
    logits = row_logits(ours.model, IDS)
    tokenizer = tiny_tokenizer()
    ours.save(tmp_path / "adapter", tokenizer=tokenizer, base_name="tiny", notes={"added_tokens": ["a", "b", "c"]})
    in_peft = PeftModel.from_pretrained(_resized(family), tmp_path / "adapter").eval()
    torch.testing.assert_close(row_logits(in_peft, IDS), logits, atol=1e-5, rtol=1e-5)

    again = tiny_model(family)
    loaded = load_adaptation(again, tmp_path / "adapter")
    torch.testing.assert_close(row_logits(again, IDS), logits, atol=1e-5, rtol=1e-5)
    old = [token for token in IDS if token < VOCABULARY]
    with adapter_disabled(again):
        base = row_logits(again, old)
    assert torch.equal(base[:, :VOCABULARY], row_logits(tiny_model(family), old))
    assert bool((base[:, VOCABULARY:] == float("-inf")).all()), "the base knows no such token"

    merge_and_save(loaded, tokenizer, tmp_path / "merged")
    torch.testing.assert_close(row_logits(again, IDS), logits, atol=1e-5, rtol=1e-5)
    fresh = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", attn_implementation="eager").eval()
    assert fresh.config.vocab_size == VOCABULARY + 3
    torch.testing.assert_close(row_logits(fresh, IDS), logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen2"], ids=["untied", "tied"])
def test_what_peft_saved_loads_in_hone(family: str, tmp_path: Path) -> None:
    theirs = _theirs(family, _ours(family))
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "trainable_tokens_delta" in name or "lora_B" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    theirs.save_pretrained(tmp_path)
    model = tiny_model(family)
    load_adaptation(model, tmp_path)
    torch.testing.assert_close(row_logits(model, IDS), row_logits(theirs, IDS), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gemma3", "gpt2", "phi3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_at_first_old_tokens_are_read_as_by_the_base(family: str, dtype: torch.dtype) -> None:
    ours = _ours(family, dtype=dtype)
    base: PreTrainedModel = tiny_model(family).to(dtype)  # type: ignore[assignment]
    old = [token for token in IDS if token < VOCABULARY]
    logits = row_logits(ours.model, old)
    assert logits.shape[-1] == VOCABULARY + 3
    assert torch.equal(logits[:, :VOCABULARY], row_logits(base, old))
    # a token of two equal pieces is read as that piece, whatever the architecture does to its embeddings
    model = tiny_model(family)
    attach_tokens(model, [[30, 30]], first_id=VOCABULARY)
    torch.testing.assert_close(
        row_logits(model, [5, VOCABULARY, 8])[:, :VOCABULARY], row_logits(tiny_model(family), [5, 30, 8])
    )


def test_spare_rows_of_the_base_are_used_first() -> None:
    model = tiny_model("llama")
    attach_tokens(model, [[5, 6], [7, 8]], first_id=VOCABULARY - 1)
    logits = row_logits(model, [5, VOCABULARY - 1, VOCABULARY, 9])
    assert logits.shape[-1] == VOCABULARY + 1
    torch.testing.assert_close(
        row_logits(model, [5, 9])[:, : VOCABULARY - 1], row_logits(tiny_model("llama"), [5, 9])[:, : VOCABULARY - 1]
    )


def test_tokens_are_read_from_a_line_and_from_a_file(tmp_path: Path) -> None:
    assert read_token_list("Zirkon-7, lampe") == ["Zirkon-7", "lampe"]
    path = tmp_path / "tokens.txt"
    path.write_text("Zirkon-7\n\n lampe \r\n", encoding="utf-8")
    assert read_token_list(str(path)) == ["Zirkon-7", "lampe"]
    path.write_text("one\ntwo\none\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_token_list(str(path))
    assert f"{path}:3: 'one' stands in line 1 already" in str(caught.value)
    with pytest.raises(DataError, match="no token"):
        read_token_list(" , ")


def test_added_tokens_are_one_id_each_and_known_ones_are_refused(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    texts = ["zirkonlampe", "§404"]
    pieces = pieces_of_tokens(tokenizer, texts)
    assert [tokenizer.decode(ids) for ids in pieces] == texts
    first = add_tokens(tokenizer, texts)
    assert tokenizer.encode("zirkonlampe§404") == [first, first + 1]
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).encode("§404") == [first + 1]
    with pytest.raises(ConfigError) as caught:
        pieces_of_tokens(tiny_tokenizer(), ["zirkonlampe", "<|im_end|>"])
    assert "1 of 2 tokens are tokens of the base already" in str(caught.value)


def test_an_adapter_of_scattered_tokens_is_refused(tmp_path: Path) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[5, 9], task_type="CAUSAL_LM")
    get_peft_model(tiny_model("qwen2"), config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="do not follow each other"):
        load_adaptation(tiny_model("qwen2"), tmp_path)
