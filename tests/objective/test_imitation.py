"""Objectives of imitation worked by hand; that distillation equals TRL's is shown in tests/parity."""

from __future__ import annotations

import math

import pytest
import torch

from hone.objective.imitation import best_answers, distillation_loss, raft_loss, sampled_distillation_loss
from hone.objective.policy import Ratios

OWNERS = torch.tensor([0, 0, 1])


def test_the_best_answer_is_kept_where_one_is_better() -> None:
    assert best_answers([[0.0, 1.0, 0.5], [0.2, 0.2], [3.0, 1.0, 3.0]]) == [1, None, 0]


def test_raft_is_the_likelihood_of_what_was_kept() -> None:
    logprobs = torch.tensor([-1.0, -2.0, -4.0], requires_grad=True)
    loss, weight, _ = raft_loss(logprobs, torch.tensor([1.0, 1.0]), OWNERS)
    assert (loss.item(), weight) == (7.0, 3)
    loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [-1.0, -1.0, -1.0]


def test_where_nothing_was_kept_nothing_moves() -> None:
    logprobs = torch.tensor([-1.0, -2.0, -4.0], requires_grad=True)
    loss, weight, _ = raft_loss(logprobs, torch.zeros(2), OWNERS)
    loss.backward()
    assert logprobs.grad is not None
    assert (loss.item(), weight, logprobs.grad.abs().sum().item()) == (0.0, 3, 0.0)


def test_distillation_sums_divergences() -> None:
    loss, weight, _ = distillation_loss(torch.tensor([0.5, 0.0, 0.25]))
    assert (loss.item(), weight) == (0.75, 3)


def test_a_token_that_the_teacher_finds_likelier_becomes_likelier() -> None:
    ratios = Ratios(
        torch.tensor([-1.0, -2.0, -3.0], requires_grad=True), torch.tensor([-1.0, -2.0, -3.0]), OWNERS, 2, 0.2
    )
    loss, weight, _ = sampled_distillation_loss(ratios, torch.tensor([-0.5, -2.0, -4.0]))
    loss.backward()
    assert weight == 3
    assert ratios.logprobs_S.grad is not None
    assert ratios.logprobs_S.grad.tolist() == [-0.5, 0.0, 1.0]


def test_drawn_tokens_have_the_gradient_of_the_whole_vocabulary_on_average() -> None:
    logits, theirs = torch.tensor([0.3, -1.0, 0.7, 0.1], requires_grad=True), torch.tensor([0.0, 0.5, 0.2, -0.4])
    logs, their_logs = torch.log_softmax(logits, 0), torch.log_softmax(theirs, 0)
    (exact,) = torch.autograd.grad(distillation_loss((logs.exp() * (logs - their_logs)).sum().unsqueeze(0))[0], logits)
    expected = torch.zeros(4)
    for token in range(4):
        drawn = torch.log_softmax(logits, 0)[token : token + 1]
        ratios = Ratios(drawn, drawn.detach(), torch.tensor([0]), 1, 0.2)
        loss, _, _ = sampled_distillation_loss(ratios, their_logs[token : token + 1])
        expected += math.exp(logs[token].item()) * torch.autograd.grad(loss, logits)[0]
    assert expected.tolist() == pytest.approx(exact.tolist(), abs=1e-6)
