"""What is checked before training: it holds on five architectures, and each planted fault is caught by its number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from hone.data.pack import PackedBatch, Segment
from hone.data.render import Renderer
from hone.errors import ProofError
from hone.model.attention import packed_attention_enabled
from hone.model.forward import Forward, packed_logprobs, padded_logprobs
from hone.model.lora import adapted_layers, adapter_parameters, attach_adapter
from hone.proof.invariant import Invariant, require_all
from hone.proof.preflight import check_model
from hone.proof.rows import check_rows
from hone.types import Example, Message, TokenSequence
from tests.proof.subjects import FAMILIES, Subject, by_number, conversations, failing, subject, with_token
from tests.tiny import attach_random_adapter, tiny_tokenizer

UNLIKE = Example((Message("user", "who paints the roof?"), Message("assistant", "a", supervised=True)), row=1)
OTHER_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ': ' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant: ' }}{% endif %}"
)


@pytest.fixture
def llama() -> Subject:
    return subject("llama")


# --- rows: invariants 1, 2 and 8 ---


def rows_checked(
    one: Subject,
    *,
    sequences: list[TokenSequence] | None = None,
    held_out: list[Example] | None = None,
    renderer: Renderer | None = None,
    bos_id: int | None = None,
) -> dict[int, Invariant]:
    sequences = one.sequences if sequences is None else sequences
    return by_number(check_rows(one.examples, held_out or [], sequences, renderer or one.renderer, bos_id=bos_id))


def exchanged(one: Subject, index: int, change: Callable[[TokenSequence], TokenSequence]) -> list[TokenSequence]:
    """The sequences with one of them changed."""
    return [change(s) if place == index else s for place, s in enumerate(one.sequences)]


def test_clean_rows_hold(llama: Subject) -> None:
    found = rows_checked(llama, held_out=[UNLIKE], bos_id=1)
    assert sorted(found) == [1, 2, 8]
    assert failing(found) == []
    assert [invariant.measured for invariant in found.values()] == [0, 0, 0]
    assert found[1].checked == "all 8 sequences"
    assert found[8].checked == "8 training against 1 held-out rows"


def test_a_row_with_nothing_supervised_is_caught(llama: Subject) -> None:
    masked = exchanged(llama, 4, lambda s: replace(s, supervised=(False,) * len(s.ids)))
    found = rows_checked(llama, sequences=masked)
    assert not found[1].holds
    assert found[1].measured == 1


def test_an_end_of_turn_that_is_not_supervised_is_caught(llama: Subject) -> None:
    open_ended = exchanged(llama, 1, lambda s: replace(s, supervised=(*s.supervised[:-1], False)))
    found = rows_checked(llama, sequences=open_ended)
    assert failing(found) == [1]
    assert found[1].measured == 1


def test_an_unsupervised_end_is_caught_in_an_earlier_turn_too(llama: Subject) -> None:
    """The last turn is right; the first one of the same row lacks its end."""
    two_turns = next(index for index, example in enumerate(llama.examples) if len(example.messages) == 4)
    stop = llama.renderer.stop_ids[0]

    def without_first_end(sequence: TokenSequence) -> TokenSequence:
        flags = list(sequence.supervised)
        ends = [at for at, token in enumerate(sequence.ids) if token == stop and flags[at]]
        assert len(ends) == 2
        flags[ends[0]] = False
        return replace(sequence, supervised=tuple(flags))

    found = rows_checked(llama, sequences=exchanged(llama, two_turns, without_first_end))
    assert failing(found) == [1]


def test_a_prompt_that_is_no_prefix_is_caught(llama: Subject) -> None:
    found = rows_checked(llama, sequences=exchanged(llama, 2, lambda s: with_token(s, 3, (s.ids[3] + 1) % 300)))
    assert failing(found) == [2]
    assert found[2].measured == 1


def test_an_answer_that_is_supervised_too_late_is_caught(llama: Subject) -> None:
    """The first token of the answer carries no loss: the model would be asked for what it never learned."""

    def late(sequence: TokenSequence) -> TokenSequence:
        flags = list(sequence.supervised)
        flags[flags.index(True)] = False
        return replace(sequence, supervised=tuple(flags))

    assert failing(rows_checked(llama, sequences=exchanged(llama, 0, late))) == [2]


def test_another_template_for_generation_than_for_training_is_caught(llama: Subject) -> None:
    found = rows_checked(llama, renderer=Renderer(tiny_tokenizer(OTHER_TEMPLATE)))
    assert failing(found) == [2]
    assert found[2].measured == len(llama.examples)


def test_two_beginning_of_sequence_tokens_are_caught() -> None:
    one = subject("llama", count=20)
    bos = one.sequences[0].ids[0]
    # beyond the rows whose prompts are rendered again, so that nothing but the BOS can be what is found
    doubled = exchanged(one, 18, lambda s: replace(s, ids=(bos, *s.ids), supervised=(False, *s.supervised)))
    assert failing(rows_checked(one, sequences=doubled, bos_id=None)) == []
    found = rows_checked(one, sequences=doubled, bos_id=bos)
    assert failing(found) == [2]
    assert found[2].measured == 1


def test_one_beginning_of_sequence_token_is_right_where_it_opens_every_turn(llama: Subject) -> None:
    bos = llama.sequences[0].ids[0]
    assert llama.sequences[0].ids.count(bos) > 1
    assert rows_checked(llama, bos_id=bos)[2].holds


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: text, id="equal"),
        pytest.param(lambda text: text.upper().replace("?", " !"), id="case and punctuation"),
        pytest.param(lambda text: text.replace("where", "wheer"), id="typing error"),
    ],
)
def test_a_held_out_copy_is_caught(llama: Subject, change: Callable[[str], str]) -> None:
    prompt = Message("user", change(llama.examples[1].messages[0].content))
    twin = Example((prompt, Message("assistant", "another answer", supervised=True)), row=2)
    found = rows_checked(llama, held_out=[UNLIKE, twin])
    assert failing(found) == [8]
    assert found[8].measured == 1


def test_what_these_tests_take_for_clean_rows_are_no_copies_of_each_other() -> None:
    rows = conversations(20)
    one = replace(subject("llama"), examples=rows[:10])
    sequences = [s for example in rows[:10] for s in one.renderer.render(example).sequences]
    assert failing(rows_checked(one, sequences=sequences, held_out=rows[10:])) == []


# --- model: invariants 3, 5 and 6 ---


def model_checked(one: Subject, forward: Forward = packed_logprobs) -> dict[int, Invariant]:
    with packed_attention_enabled(one.model):
        return by_number(
            check_model(one.model, one.sequences, parameters=adapter_parameters(one.model), forward=forward)
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_it_holds_on_every_architecture(family: str) -> None:
    one = subject(family)
    attach_adapter(one.model, rank=4, alpha=8.0)
    found = model_checked(one)
    assert sorted(found) == [3, 4, 5, 6]
    assert failing(found) == []
    assert found[3].measured < 1e-6
    assert found[4].measured < 1e-5
    assert found[5].measured < 1e-5
    assert found[6].measured == 0.0
    assert found[3].checked.startswith("3 rows of ")


@pytest.mark.parametrize("family", FAMILIES)
def test_it_holds_in_bfloat16(family: str) -> None:
    one = subject(family)
    one.model.to(torch.bfloat16)
    attach_adapter(one.model, rank=4, alpha=8.0)
    assert failing(model_checked(one)) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_the_reference_path_holds_as_well(family: str) -> None:
    one = subject(family)
    attach_adapter(one.model, rank=4, alpha=8.0)
    assert (
        failing(
            by_number(
                check_model(one.model, one.sequences, parameters=adapter_parameters(one.model), forward=padded_logprobs)
            )
        )
        == []
    )


def one_group(model: PreTrainedModel, batch: PackedBatch) -> torch.Tensor:
    """A packing leak: all rows attend as if they were one."""
    whole = Segment(0, len(batch.ids_T), 0, None)
    return packed_logprobs(model, replace(batch, segments=(whole,), leaves=(0,) * len(batch.leaves)))


def shifted_boundary(model: PreTrainedModel, batch: PackedBatch) -> torch.Tensor:
    """A packing leak of one token: the last row is taken to begin with the last token of the one before it."""
    if len(batch.segments) == 1:
        return packed_logprobs(model, batch)
    last = batch.segments[-1]
    wrong = replace(last, start=last.start - 1, length=last.length + 1)
    return packed_logprobs(model, replace(batch, segments=(*batch.segments[:-1], wrong)))


def no_positions(model: PreTrainedModel, batch: PackedBatch) -> torch.Tensor:
    """Every token at place 0: rows stay apart, and order is lost."""
    return packed_logprobs(model, replace(batch, positions_T=(0,) * len(batch.ids_T)))


def slightly_off(model: PreTrainedModel, batch: PackedBatch) -> torch.Tensor:
    """A kernel that is wrong in the third digit."""
    return packed_logprobs(model, batch) * 1.002


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("leak", [one_group, shifted_boundary])
def test_a_packing_leak_is_caught(family: str, leak: Forward, dtype: torch.dtype) -> None:
    # two layers with windows of 8 see 15 tokens back: no leak would reach the answers of these rows
    one = subject(family, sliding_window=32) if family == "mistral" else subject(family)
    one.model.to(dtype)
    attach_adapter(one.model, rank=4, alpha=8.0)
    found = model_checked(one, leak)
    assert not found[3].holds
    assert found[3].measured > 1e-3
    assert found[6].holds
    if dtype == torch.float32:
        assert not found[5].holds, "so is the difference from the reference path"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fault", [no_positions, slightly_off])
def test_a_path_that_computes_something_else_is_caught(family: str, fault: Forward) -> None:
    one = subject(family)
    attach_adapter(one.model, rank=4, alpha=8.0)
    assert failing(model_checked(one, fault)) == [5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("share", [0.01, 1.0], ids=["one tensor", "all tensors"])
def test_wrong_gradients_are_caught_though_no_log_probability_moves(dtype: torch.dtype, share: float) -> None:
    one = subject("llama")
    one.model.to(dtype)
    attach_adapter(one.model, rank=4, alpha=8.0)
    parameters = list(adapter_parameters(one.model).values())
    wrong = parameters[: max(1, round(share * len(parameters)))]
    size = 0.02 if len(wrong) == 1 else 0.002  # a gradient of one is turned around, those of all are bent

    def bent(model: PreTrainedModel, batch: PackedBatch) -> torch.Tensor:
        added = sum((one * torch.randn(one.shape, generator=torch.Generator().manual_seed(3))).sum() for one in wrong)
        return packed_logprobs(model, batch) + size * (added - added.detach())

    found = model_checked(one, bent)
    assert not found[5].holds
    assert found[5].measured < 0.3, "the log-probabilities agree"
    assert found[5].found.startswith("least cosine in ")


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_that_does_not_begin_at_zero_is_caught(family: str) -> None:
    one = subject(family)
    attach_random_adapter(one.model)
    found = model_checked(one)
    assert failing(found) == [6]
    assert found[6].measured > 1e-3


def test_one_number_of_one_layer_off_zero_is_enough(llama: Subject) -> None:
    attach_adapter(llama.model, rank=4, alpha=8.0)
    _, layer = list(adapted_layers(llama.model))[-1]
    with torch.no_grad():
        layer.lora_B[0, 0] = 0.05
    assert failing(model_checked(llama)) == [6]


def test_weights_that_are_not_finite_are_caught_and_stop_the_run(llama: Subject) -> None:
    attach_adapter(llama.model, rank=4, alpha=8.0)
    with torch.no_grad():
        llama.model.get_input_embeddings().weight[llama.renderer.stop_ids[0]] = float("nan")
        llama.model.get_output_embeddings().weight[5] = float("nan")
    found = model_checked(llama)
    assert failing(found) == [3, 4, 5, 6]
    with pytest.raises(ProofError, match="4 of 4 invariants"):
        require_all(list(found.values()))


def test_checking_leaves_the_model_as_it_was(llama: Subject) -> None:
    attach_random_adapter(llama.model)
    weights = {name: tensor.clone() for name, tensor in llama.model.state_dict().items()}
    with packed_attention_enabled(llama.model):
        inside = llama.model.config._attn_implementation
        check_model(llama.model, llama.sequences, parameters=adapter_parameters(llama.model), forward=packed_logprobs)
        assert llama.model.config._attn_implementation == inside
    assert llama.model.config._attn_implementation != inside
    assert all(torch.equal(weights[name], tensor) for name, tensor in llama.model.state_dict().items())
    assert all(layer.enabled for _, layer in adapted_layers(llama.model))


def test_long_rows_are_shortened_to_where_their_supervised_tokens_are(llama: Subject) -> None:
    """Rows of 400 tokens, of a model for 256, whose answers stand at the end."""
    long = [
        TokenSequence(tuple(3 + (7 * at + row) % 300 for at in range(400)), (False,) * 390 + (True,) * 10, row)
        for row in range(1, 4)
    ]
    attach_adapter(llama.model, rank=4, alpha=8.0)
    found = model_checked(replace(llama, sequences=long))
    assert failing(found) == []
    assert found[5].checked == "3 rows of 256, 256, 256 tokens (the longest row has 400), 30 supervised tokens"
