"""AdamW against its formula, and its state as named tensors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from hone.engine.optimizer import load_optimizer_state, make_optimizer, optimizer_state
from hone.errors import StorageError


def _parameters(seed: int = 0) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in {"a": (3, 4), "b": (5,)}.items()
    }


def _step(optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], seed: int, rate: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


def test_three_steps_by_the_formula() -> None:
    # Loshchilov and Hutter 2019, algorithm 2, in double precision
    parameters = _parameters()
    optimizer = make_optimizer(parameters, weight_decay=0.1)
    weight = parameters["a"].detach().double()
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for step, rate in enumerate((1e-2, 2e-2, 5e-3), start=1):
        _step(optimizer, parameters, seed=step, rate=rate)
        gradient = parameters["a"].grad.double()
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        weight = weight - rate * 0.1 * weight
        weight = weight - rate * (first / (1 - 0.9**step)) / (torch.sqrt(second / (1 - 0.999**step)) + 1e-8)
    torch.testing.assert_close(parameters["a"].detach().double(), weight, atol=1e-6, rtol=1e-6)


def test_the_first_step_moves_each_weight_by_the_rate() -> None:
    parameters = _parameters()
    before = parameters["b"].detach().clone()
    _step(make_optimizer(parameters, weight_decay=0.0), parameters, seed=3, rate=1e-2)
    moved = (parameters["b"].detach() - before).abs()
    assert moved.tolist() == pytest.approx([1e-2] * 5, rel=1e-3)


def test_before_the_first_step_there_is_no_state_and_no_rate() -> None:
    parameters = _parameters()
    optimizer = make_optimizer(parameters, weight_decay=0.1)
    assert optimizer_state(optimizer, parameters) == {}
    assert [group["lr"] for group in optimizer.param_groups] == [0.0]


def test_the_state_is_named_and_goes_on_to_the_bit() -> None:
    parameters = _parameters()
    optimizer = make_optimizer(parameters, weight_decay=0.1)
    for step in range(3):
        _step(optimizer, parameters, seed=step, rate=1e-2)
    state = {name: tensor.clone() for name, tensor in optimizer_state(optimizer, parameters).items()}
    assert set(state) == {f"{name}.{key}" for name in ("a", "b") for key in ("exp_avg", "exp_avg_sq", "step")}
    assert float(state["a.step"]) == 3.0

    resumed = _parameters(seed=9)
    with torch.no_grad():
        for name, parameter in resumed.items():
            parameter.copy_(parameters[name])
    other = make_optimizer(resumed, weight_decay=0.1)
    load_optimizer_state(other, resumed, state)
    for step in range(3, 6):
        _step(optimizer, parameters, seed=step, rate=1e-3)
        _step(other, resumed, seed=step, rate=1e-3)
    assert all(torch.equal(parameters[name], resumed[name]) for name in parameters)


def test_what_was_loaded_is_not_written_through() -> None:
    parameters = _parameters()
    optimizer = make_optimizer(parameters, weight_decay=0.0)
    _step(optimizer, parameters, seed=0, rate=1e-2)
    state = {name: tensor.clone() for name, tensor in optimizer_state(optimizer, parameters).items()}
    kept = {name: tensor.clone() for name, tensor in state.items()}
    other = make_optimizer(parameters, weight_decay=0.0)
    load_optimizer_state(other, parameters, state)
    _step(other, parameters, seed=1, rate=1e-2)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in state.items())


def test_a_state_that_does_not_fit_is_refused_with_every_name() -> None:
    parameters = _parameters()
    optimizer = make_optimizer(parameters, weight_decay=0.0)
    _step(optimizer, parameters, seed=0, rate=1e-2)
    state: dict[str, Tensor] = dict(optimizer_state(optimizer, parameters))
    state["a.exp_avg"] = torch.zeros(4, 3)
    del state["b.exp_avg_sq"], state["b.step"]
    with pytest.raises(StorageError) as caught:
        load_optimizer_state(make_optimizer(parameters, weight_decay=0.0), parameters, state)
    assert set(caught.value.details) == {"a.exp_avg", "b.exp_avg_sq", "b.step"}


def test_moments_are_float32_and_small_steps_survive() -> None:
    # steps of 1e-6 would vanish one by one in bfloat16, whose neighbours of 1 are 0.004 to 0.008 apart
    weight = nn.Parameter(torch.ones(1))
    optimizer = make_optimizer({"w": weight}, weight_decay=0.0)
    for group in optimizer.param_groups:
        group["lr"] = 1e-6
    for _ in range(200):
        weight.grad = torch.ones(1)
        optimizer.step()
    assert optimizer_state(optimizer, {"w": weight})["w.exp_avg"].dtype == torch.float32
    assert math.isclose(float(weight.detach()), 1 - 200e-6, abs_tol=5e-6)


def test_a_loaded_state_lies_where_its_parameter_does() -> None:
    """The fused kernel of a card refuses a step that was left on the processor."""
    parameter = nn.Parameter(torch.zeros(3, device="meta"))
    optimizer = make_optimizer({"a": parameter}, weight_decay=0.0)
    state = {"a.exp_avg": torch.zeros(3), "a.exp_avg_sq": torch.zeros(3), "a.step": torch.tensor(2.0)}
    load_optimizer_state(optimizer, {"a": parameter}, state)
    assert {tensor.device.type for tensor in optimizer.state[parameter].values()} == {"meta"}
