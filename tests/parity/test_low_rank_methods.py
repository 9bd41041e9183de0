"""rsLoRA, DoRA, PiSSA and LoRA+ against PEFT: gradients, three optimizer steps, and files in both directions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hone.data.pack import pack
from hone.errors import ModelError
from hone.model.adaptation import Adaptation, AttachOptions, attach_adaptation, load_adaptation
from hone.model.attention import packed_attention_enabled
from hone.model.forward import packed_logprobs, padded_logprobs
from hone.model.lora import adapted_layers, adapter_disabled
from hone.model.merge import merge_and_save
from hone.types import AdaptationName
from tests.parity.stepping import ROWS, assert_all_close, hone_steps, padded, plain_steps
from tests.tiny import row_logits, tiny_model, tiny_tokenizer

RANK, RATE = 4, 1e-3
IDS = list(range(5, 35))
# hone's name of the method, and PEFT's settings for it
METHODS: dict[AdaptationName, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
}
EACH = pytest.mark.parametrize("name", METHODS)


def _ours(name: AdaptationName, family: str, alpha: float = 6.0, layers: tuple[str, ...] | None = None) -> Adaptation:
    options = AttachOptions(rank=RANK, alpha=alpha, seed=1, layers=layers, originals=dict)
    return attach_adaptation(name, tiny_model(family), options)


def _theirs(name: AdaptationName, family: str, ours: Adaptation, alpha: float = 6.0) -> PeftModel:
    """PEFT on a fresh base, with hone's start of A and B."""
    base = tiny_model(family)
    conv = any(isinstance(module, Conv1D) for module in base.modules())
    config = LoraConfig(
        r=RANK, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM", fan_in_fan_out=conv,
        **METHODS[name],
    )  # fmt: skip
    theirs = get_peft_model(base, config).eval()
    parameters = dict(theirs.named_parameters())
    with torch.no_grad():
        for layer_name, layer in adapted_layers(ours.model):
            for half in ("lora_A", "lora_B"):
                target = parameters[f"base_model.model.{layer_name}.{half}.default.weight"]
                # of a singular part either sign is right: PEFT's own start must be ours but for it
                if name == "pissa":
                    torch.testing.assert_close(target.abs(), getattr(layer, half).abs(), atol=1e-4, rtol=1e-4)
                target.copy_(getattr(layer, half))
    return theirs


def _by_our_names(theirs: PeftModel, *, gradients: bool = False) -> dict[str, torch.Tensor]:
    named = {}
    for name, parameter in theirs.named_parameters():
        ours = name.removeprefix("base_model.model.").replace("lora_magnitude_vector.default.weight", "magnitude")
        ours = ours.replace(".default.weight", "")
        named[ours] = parameter.grad if gradients else parameter
    return named


@EACH
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3", "gpt2"])
def test_loss_and_every_gradient_equal_peft(name: AdaptationName, family: str) -> None:
    ours = _ours(name, family)
    with torch.no_grad():
        for _, layer in adapted_layers(ours.model):
            layer.lora_B += 0.1 * torch.randn(layer.lora_B.shape, generator=torch.Generator().manual_seed(2))
            if name == "dora":
                layer.get_parameter("magnitude").mul_(1.1)
    theirs = _theirs_moved(name, family, ours)
    batch = padded(ROWS)
    supervised = int((batch["labels"][:, 1:] != -100).sum())
    loss = theirs(**batch, num_items_in_batch=supervised, use_cache=False).loss
    loss.backward()
    with packed_attention_enabled(ours.model):
        own = -packed_logprobs(ours.model, pack(ROWS)).mean()
    own.backward()
    assert float(own.detach()) == pytest.approx(float(loss.detach()), abs=1e-5)
    references = _by_our_names(theirs, gradients=True)
    for parameter_name, parameter in ours.parameters().items():
        assert parameter.grad is not None
        assert references[parameter_name].abs().max() > 1e-6, f"{parameter_name}: nothing to compare"
    gradients = {key: parameter.grad for key, parameter in ours.parameters().items() if parameter.grad is not None}
    assert_all_close(gradients, references)


def _theirs_moved(name: AdaptationName, family: str, ours: Adaptation) -> PeftModel:
    start = _ours(name, family)
    theirs = _theirs(name, family, start)
    references = _by_our_names(theirs)
    with torch.no_grad():
        for key, parameter in ours.parameters().items():
            references[key].copy_(parameter)
    return theirs


@EACH
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_three_steps_equal_peft(name: AdaptationName, family: str, tmp_path: Path) -> None:
    ours = _ours(name, family)
    theirs = _theirs(name, family, ours)
    start = {key: parameter.detach().clone() for key, parameter in ours.parameters().items()}
    losses, _ = hone_steps(ours, tmp_path, rate=RATE)
    trainable = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
    assert losses == pytest.approx(plain_steps(theirs, trainable, rate=RATE), abs=1e-5)
    parameters = ours.parameters()
    assert all(not torch.equal(parameters[key], start[key]) for key in parameters)
    assert len(parameters) == len(trainable)
    assert_all_close(parameters, _by_our_names(theirs))
    torch.testing.assert_close(row_logits(ours.model, IDS), row_logits(theirs, IDS), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("ratio", [4.0, 16.0])
def test_lora_plus_equals_peft_s_optimizer(ratio: float, tmp_path: Path) -> None:
    ours = _ours("lora", "llama")
    theirs = _theirs("lora", "llama", ours)
    optimizer = create_loraplus_optimizer(
        theirs, torch.optim.AdamW, lr=RATE, loraplus_lr_ratio=ratio, weight_decay=0.01, loraplus_weight_decay=0.01
    )
    losses, _ = hone_steps(ours, tmp_path, rate=RATE, ratio=ratio)
    trainable = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
    assert losses == pytest.approx(plain_steps(theirs, trainable, rate=RATE, optimizer=optimizer), abs=1e-5)
    assert_all_close(ours.parameters(), _by_our_names(theirs))


@EACH
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_hone_saved_loads_in_peft_and_in_hone(name: AdaptationName, family: str, tmp_path: Path) -> None:
    ours = _ours(name, family)
    hone_steps(ours, tmp_path, rate=RATE)
    ours.save(tmp_path / "adapter", tokenizer=tiny_tokenizer(), base_name="tiny", notes={})
    logits, base = row_logits(ours.model, IDS), row_logits(tiny_model(family), IDS)
    assert (logits - base).abs().max() > 1e-2
    in_peft = PeftModel.from_pretrained(tiny_model(family), tmp_path / "adapter").eval()
    torch.testing.assert_close(row_logits(in_peft, IDS), logits, atol=1e-5, rtol=1e-5)
    again = tiny_model(family)
    loaded = load_adaptation(again, tmp_path / "adapter")
    torch.testing.assert_close(row_logits(again, IDS), logits, atol=1e-5, rtol=1e-5)
    with adapter_disabled(again):
        assert torch.equal(row_logits(again, IDS), base)
    merge_and_save(loaded, tiny_tokenizer(), tmp_path / "merged")
    torch.testing.assert_close(row_logits(again, IDS), logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        row_logits(in_peft.merge_and_unload(), IDS), row_logits(again, IDS), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("name", ["rslora", "dora"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_peft_saved_loads_in_hone(name: AdaptationName, family: str, tmp_path: Path) -> None:
    theirs = _theirs(name, family, _ours(name, family))
    with torch.no_grad():
        for parameter_name, parameter in theirs.named_parameters():
            if "lora_B" in parameter_name:
                parameter.normal_(std=0.1)
            if "magnitude" in parameter_name:
                parameter.mul_(1.2)
    theirs.save_pretrained(tmp_path)
    model = tiny_model(family)
    load_adaptation(model, tmp_path)
    torch.testing.assert_close(row_logits(model, IDS), row_logits(theirs, IDS), atol=1e-5, rtol=1e-5)


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_at_first_the_model_is_its_base_to_the_last_bit(name: AdaptationName, dtype: torch.dtype) -> None:
    model: PreTrainedModel = tiny_model("llama").to(dtype)  # type: ignore[assignment]
    base = row_logits(model, IDS)
    options = AttachOptions(rank=RANK, alpha=6.0, seed=1, layers=None, originals=dict)
    ours = attach_adaptation(name, model, options)
    assert torch.equal(row_logits(model, IDS), base)
    assert not any(moved for moved, _ in ours.parts().values())


@EACH
def test_bfloat16_stays_near_float32(name: AdaptationName, tmp_path: Path) -> None:
    exact = _ours(name, "llama")
    hone_steps(exact, tmp_path, rate=RATE)
    exact.save(tmp_path / "adapter", tokenizer=tiny_tokenizer(), base_name="tiny", notes={})
    rounded: PreTrainedModel = tiny_model("llama").to(torch.bfloat16)  # type: ignore[assignment]
    rounded_base = row_logits(rounded, IDS).float()
    load_adaptation(rounded, tmp_path / "adapter")
    truth, base = row_logits(exact.model, IDS), row_logits(tiny_model("llama"), IDS)
    noise = (rounded_base - base).abs().mean()
    assert (row_logits(rounded, IDS).float() - truth).abs().mean() < 2 * noise


@EACH
def test_chosen_layers_alone_are_adapted(name: AdaptationName, tmp_path: Path) -> None:
    ours = _ours(name, "llama", layers=("model.layers.1.*", "q_proj"))
    adapted = [layer_name for layer_name, _ in adapted_layers(ours.model)]
    assert "model.layers.0.self_attn.q_proj" in adapted
    assert len(adapted) == 8
    assert all(one.startswith("model.layers.1.") or one.endswith("q_proj") for one in adapted)
    losses, _ = hone_steps(ours, tmp_path, rate=RATE, forward=padded_logprobs)
    assert losses[-1] < losses[0] + 1
    assert all(moved and finite for moved, finite in ours.parts().values())


def test_a_pattern_that_fits_nothing_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(ModelError) as caught:
        _ours("lora", "llama", layers=("q_pro", "v_proj", "nowhere.*"))
    assert "2 of 3 patterns" in str(caught.value)
    assert "q_pro: did you mean" in str(caught.value)
    assert "nowhere.*" in str(caught.value)


def test_the_strength_of_each_kind_ends_at_its_base() -> None:
    base = row_logits(tiny_model("llama"), IDS)
    for name in METHODS:
        ours = _ours(name, "llama")
        with torch.no_grad():
            for parameter in ours.parameters().values():
                parameter.add_(0.05)
        assert (row_logits(ours.model, IDS) - base).abs().max() > 1e-2
        for _, layer in adapted_layers(ours.model):
            layer.strength = 0.0
        torch.testing.assert_close(row_logits(ours.model, IDS), base, atol=1e-5, rtol=1e-5)


@EACH
def test_a_saved_strength_is_what_peft_computes(name: AdaptationName, tmp_path: Path) -> None:
    ours = _ours(name, "llama")
    with torch.no_grad():
        for parameter in ours.parameters().values():
            parameter.add_(0.05)
    full = row_logits(ours.model, IDS)
    ours.set_strength(0.4)
    ours.save(tmp_path, tokenizer=tiny_tokenizer(), base_name="tiny", notes={})
    mine = row_logits(ours.model, IDS)
    assert (mine - full).abs().max() > 1e-2
    theirs: Any = PeftModel.from_pretrained(tiny_model("llama"), str(tmp_path)).eval()
    torch.testing.assert_close(row_logits(theirs, IDS), mine, atol=1e-5, rtol=1e-5)
    again = tiny_model("llama")
    load_adaptation(again, tmp_path).merge()
    torch.testing.assert_close(row_logits(again, IDS), mine, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["lora", "rslora"])
def test_the_strength_is_pefts_scale_of_a_layer(name: AdaptationName, tmp_path: Path) -> None:
    ours = _ours(name, "llama")
    with torch.no_grad():
        for parameter in ours.parameters().values():
            parameter.add_(0.05)
    ours.save(tmp_path, tokenizer=tiny_tokenizer(), base_name="tiny", notes={})
    theirs: Any = PeftModel.from_pretrained(tiny_model("llama"), str(tmp_path)).eval()
    for module in theirs.modules():
        if isinstance(module, LoraLayer):
            module.scale_layer(0.4)
    ours.set_strength(0.4)
    torch.testing.assert_close(row_logits(ours.model, IDS), row_logits(theirs, IDS), atol=1e-5, rtol=1e-5)


def test_pissa_refuses_more_parts_than_there_are() -> None:
    options = AttachOptions(rank=65, alpha=1.0, seed=0, layers=None, originals=dict)
    with pytest.raises(ModelError, match="fewer than 65 singular parts"):
        attach_adaptation("pissa", tiny_model("llama"), options)


def test_the_randomised_decomposition_finds_the_principal_part() -> None:
    # wider than the exact one is used for
    torch.manual_seed(0)
    wide = torch.nn.Linear(520, 530, bias=False)
    with torch.no_grad():
        wide.weight.copy_(torch.randn(530, 6) @ torch.randn(6, 520) + 0.01 * torch.randn(530, 520))
    from hone.model.pissa import PissaLinear

    layer = PissaLinear.from_base(wide, rank=6, alpha=6.0, seed=0)
    left, values, right = torch.linalg.svd(wide.weight.detach(), full_matrices=False)
    expected = (left[:, :6] * values[:6]) @ right[:6]
    torch.testing.assert_close((layer.lora_B @ layer.lora_A).detach(), expected, atol=2e-3, rtol=1e-3)
