"""The chunked head, against all logits at once and autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hone.model import head as head_module
from hone.model.head import OutputHead, find_output_head, reverse_divergences, token_divergences, token_logprobs
from tests.tiny import FAMILIES, tiny_model

WIDTH, VOCABULARY, ROWS = 16, 37, 23


def _head(dtype: torch.dtype = torch.float32, *, bias: bool = False, scale: float = 1.0, cap: float | None = None):  # type: ignore[no-untyped-def]
    torch.manual_seed(1)
    return OutputHead(nn.Linear(WIDTH, VOCABULARY, bias=bias).to(dtype), scale, cap)


def _inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(2)
    hidden_SD = torch.randn(ROWS, WIDTH).to(dtype).requires_grad_()
    return hidden_SD, torch.randint(VOCABULARY, (ROWS,)), torch.rand(ROWS) - 0.5


def _plain(hidden_SD: Tensor, head: OutputHead, targets_S: Tensor) -> Tensor:
    logs_SV = torch.log_softmax(head.logits(hidden_SD).float(), dim=-1)
    return logs_SV[torch.arange(len(targets_S)), targets_S]


HEADS = {
    "plain": {},
    "bias": {"bias": True},
    "scale": {"scale": 0.25},
    "cap": {"cap": 0.7},
    "all": {"bias": True, "scale": 3.0, "cap": 1.5},
}


@pytest.mark.parametrize("chunk_values", [1, 5 * VOCABULARY, 1 << 23], ids=["rows", "fives", "whole"])
@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trained"])
@pytest.mark.parametrize("kind", HEADS)
def test_values_and_gradients_equal_all_logits(
    monkeypatch: pytest.MonkeyPatch, kind: str, trained: bool, chunk_values: int
) -> None:
    monkeypatch.setattr(head_module, "_CHUNK_VALUES", chunk_values)
    head = _head(**HEADS[kind])
    head.layer.requires_grad_(trained)
    hidden_SD, targets_S, weights_S = _inputs()
    wanted = [hidden_SD, *(head.layer.parameters() if trained else ())]
    expected_S = _plain(hidden_SD, head, targets_S)
    expected = torch.autograd.grad((expected_S * weights_S).sum(), wanted)
    found_S = token_logprobs(hidden_SD, head, targets_S)
    found = torch.autograd.grad((found_S * weights_S).sum(), wanted)
    assert found_S.dtype == torch.float32
    torch.testing.assert_close(found_S, expected_S, atol=1e-6, rtol=1e-5)
    for one, other in zip(found, expected, strict=True):
        assert other.abs().max() > 1e-3
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_bfloat16_is_as_close_to_the_truth_as_all_logits_are() -> None:
    head = _head(torch.bfloat16)
    head.layer.requires_grad_(False)
    hidden_SD, targets_S, _ = _inputs(torch.bfloat16)
    plain_S = _plain(hidden_SD, head, targets_S)
    (plain,) = torch.autograd.grad(plain_S.sum(), hidden_SD)
    found_S = token_logprobs(hidden_SD, head, targets_S)
    (found,) = torch.autograd.grad(found_S.sum(), hidden_SD)
    exact = OutputHead(nn.Linear(WIDTH, VOCABULARY, bias=False))
    exact.layer.weight.data = head.layer.weight.data.float()
    hidden = hidden_SD.detach().float().requires_grad_()
    (truth,) = torch.autograd.grad(_plain(hidden, exact, targets_S).sum(), hidden)
    torch.testing.assert_close(found_S, plain_S, atol=1e-6, rtol=1e-6)
    assert found.dtype == torch.bfloat16
    assert (found.float() - truth).norm() < 1.2 * (plain.float() - truth).norm()


def test_no_tensor_of_all_logits_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_module, "_CHUNK_VALUES", 4 * VOCABULARY)
    head = _head()
    head.layer.requires_grad_(False)
    hidden_SD, targets_S, _ = _inputs()
    sizes: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            sizes.extend(part.numel() for part in ([out] if isinstance(out, Tensor) else []))
            return out

    with Watch():
        token_logprobs(hidden_SD, head, targets_S).sum().backward()
    assert sizes
    assert max(sizes) <= max(4 * VOCABULARY, VOCABULARY * WIDTH, ROWS * WIDTH)


def test_no_supervised_tokens() -> None:
    hidden_SD = torch.zeros(0, WIDTH, requires_grad=True)
    found_S = token_logprobs(hidden_SD, _head(), torch.zeros(0, dtype=torch.long))
    assert found_S.shape == (0,)
    found_S.sum().backward()
    assert hidden_SD.grad is not None
    assert hidden_SD.grad.shape == (0, WIDTH)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_of_every_family_is_found_and_gives_its_logits(family: str) -> None:
    model = tiny_model(family)
    head = find_output_head(model)
    assert head is not None
    ids = torch.tensor([[5, 9, 2, 7, 7, 1]])
    with torch.no_grad():
        hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        torch.testing.assert_close(head.logits(hidden), model(input_ids=ids, use_cache=False).logits)


def test_a_head_of_another_form_is_left_to_the_model() -> None:
    model = tiny_model("llama")
    layer = model.get_output_embeddings()
    layer.register_forward_hook(lambda module, inputs, output: output * 1.5)
    # the hook acts inside the model; here, as what the model does to its logits afterwards, it acts twice
    forward = model.forward
    model.forward = lambda *args, **kwargs: _scaled(forward(*args, **kwargs))  # type: ignore[method-assign]
    assert find_output_head(model) is None


def _scaled(output):  # type: ignore[no-untyped-def]
    output.logits = output.logits + torch.linspace(0, 1, output.logits.shape[-1])
    return output


@pytest.mark.parametrize("chunk_values", [1, 5 * VOCABULARY, 1 << 23], ids=["rows", "fives", "whole"])
@pytest.mark.parametrize("kind", HEADS)
def test_divergences_and_their_gradients_equal_torchs_own(
    monkeypatch: pytest.MonkeyPatch, kind: str, chunk_values: int
) -> None:
    monkeypatch.setattr(head_module, "_CHUNK_VALUES", chunk_values)
    head = _head(**HEADS[kind])
    head.layer.requires_grad_(False)
    hidden_SD, _, weights_S = _inputs()
    base_SD = torch.randn(ROWS, WIDTH)
    logs_SV, base_SV = (torch.log_softmax(head.logits(one), dim=-1) for one in (hidden_SD, base_SD))
    expected_S = nn.functional.kl_div(logs_SV, base_SV, reduction="none", log_target=True).sum(dim=-1)
    (expected,) = torch.autograd.grad((expected_S * weights_S).sum(), hidden_SD)
    found_S = token_divergences(hidden_SD, base_SD, head)
    (found,) = torch.autograd.grad((found_S * weights_S).sum(), hidden_SD)
    assert found_S.dtype == torch.float32
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found_S, expected_S, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_without_gradients_divergences_keep_nothing() -> None:
    hidden_SD, _, _ = _inputs()
    with torch.no_grad():
        assert token_divergences(hidden_SD, hidden_SD, _head()).tolist() == pytest.approx([0.0] * ROWS, abs=1e-6)


@pytest.mark.parametrize("form", HEADS)
@pytest.mark.parametrize("further", [-5, 0, 7])
def test_divergences_from_a_teacher_equal_those_of_all_logits(
    form: str, further: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_module, "_CHUNK_VALUES", VOCABULARY * 4)
    head, (hidden_SD, _, weights_S) = _head(**HEADS[form]), _inputs()
    theirs = OutputHead(nn.Linear(24, VOCABULARY + further), 0.5, 4.0)
    theirs_SE = torch.randn(ROWS, 24)
    size = VOCABULARY + min(0, further)
    logs_SV, their_logs_SV = (
        torch.log_softmax(one.logits(states)[:, :size], dim=-1)
        for one, states in ((head, hidden_SD), (theirs, theirs_SE))
    )
    expected_S = (logs_SV.exp() * (logs_SV - their_logs_SV)).sum(dim=-1)
    (expected,) = torch.autograd.grad((expected_S * weights_S).sum(), hidden_SD)
    found_S = reverse_divergences(hidden_SD, head, theirs_SE, theirs)
    (found,) = torch.autograd.grad((found_S * weights_S).sum(), hidden_SD)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found_S, expected_S, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_a_model_is_no_way_from_itself() -> None:
    hidden_SD, _, _ = _inputs()
    head = _head()
    with torch.no_grad():
        found_S = reverse_divergences(hidden_SD, head, hidden_SD, head)
    assert found_S.tolist() == pytest.approx([0.0] * ROWS, abs=1e-6)
