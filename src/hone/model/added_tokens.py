"""Tokens added for a domain: new rows of the embeddings and of the output head, trained beside an adapter.

The base's own rows stay frozen and untouched. A new row starts at the mean of the rows of the pieces that the base's
tokenizer split the token's text into (Hewitt 2021, "Initializing new word embeddings"). Where head and embeddings are
tied, the new rows are tied too. Stored as PEFT's ``trainable_token_indices``, whose user first gives the base as many
rows as the saved tokenizer has tokens (``resize_token_embeddings``).

Shape legend: N added tokens, V tokens of the base, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AddedToken, PreTrainedModel, PreTrainedTokenizerBase

from hone.errors import ConfigError, ModelError
from hone.model.switch import Switch

__all__ = [
    "AddedTokens",
    "add_tokens",
    "added_tokens_hidden",
    "added_tokens_of",
    "attach_tokens",
    "merge_tokens",
    "pieces_of_tokens",
]

_LEAF = ".token_adapter.trainable_tokens_delta"


class AddedTokens(Switch):
    """The rows of added tokens, and the state that embedding and head share.

    Args:
        first_id: id of the first added token; the others follow.
        start_ND: what the embedding's rows begin with.
        head_start_ND: what the head's rows begin with; None where they are the embedding's.
        hidden_from_base: whether the tokens do not exist at all while this is switched off: the head never gives
            them. Else they are there at their start, which is the base that training begins with.
    """

    def __init__(
        self, first_id: int, start_ND: Tensor, head_start_ND: Tensor | None, *, hidden_from_base: bool
    ) -> None:
        super().__init__()
        self.first_id = first_id
        self.hidden_from_base = hidden_from_base
        starts = {"embedding": start_ND} if head_start_ND is None else {"embedding": start_ND, "head": head_start_ND}
        self.starts = {name: start.float() for name, start in starts.items()}
        self.rows = nn.ParameterDict({name: nn.Parameter(start.clone()) for name, start in self.starts.items()})
        self.names: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.starts["embedding"])

    def turn(self, enabled: bool) -> None:
        """Rows are chosen when they are used; nothing is to be moved."""

    def rows_of(self, side: str) -> Tensor:
        """The rows [N, D] in use: trained ones, or while switched off the start.

        Args:
            side: ``embedding`` or ``head``.
        """
        name = side if side in self.rows else "embedding"
        return self.rows[name] if self.enabled else self.starts[name]

    def parameters_by_name(self) -> dict[str, nn.Parameter]:
        """The trainable rows, as ``<module>.added_rows``."""
        return {f"{self.names[side]}.added_rows": rows for side, rows in self.rows.items()}

    def parts(self) -> dict[str, tuple[bool, bool]]:
        """(moved, finite) of each matrix of rows."""
        return {
            f"{self.names[side]}.added_rows": (
                not torch.equal(rows.detach(), self.starts[side]),
                bool(torch.isfinite(rows).all()),
            )
            for side, rows in self.rows.items()
        }

    def stored(self) -> dict[str, Tensor]:
        """The rows by PEFT's names."""
        return {f"{self.names[side]}{_LEAF}": rows.detach() for side, rows in self.rows.items()}

    def stored_indices(self) -> dict[str, list[int]]:
        """PEFT's ``trainable_token_indices``."""
        ids = list(range(self.first_id, self.first_id + len(self)))
        return {name.rpartition(".")[2]: ids for side, name in self.names.items() if side in self.rows}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Fill the rows from :meth:`stored`.

        Raises:
            ModelError: a tensor is missing, or has another shape.
        """
        problems = []
        for side, rows in self.rows.items():
            found = tensors.get(f"{self.names[side]}{_LEAF}")
            if found is None or found.shape != rows.shape:
                shape = "missing" if found is None else tuple(found.shape)
                problems.append(f"{self.names[side]}{_LEAF}: {shape} in the adapter, {tuple(rows.shape)} in the model")
            else:
                rows.data.copy_(found)
        if problems:
            raise ModelError(
                "the rows of the added tokens do not fit this model", details=problems, remedy="use the adapter's base"
            )


class _Extended(nn.Module):
    """A layer of the base and, beside its rows, those of the added tokens."""

    def __init__(
        self, base: nn.Embedding | nn.Linear, tokens: AddedTokens, compute: Callable[[Any, AddedTokens, Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.base = base
        # held in a tuple, so that the rows are not listed a second time under this module
        self._tokens = (tokens,)
        self._compute = compute

    @property
    def weight(self) -> Tensor:
        """The base's rows: transformers asks for their dtype and device."""
        return self.base.weight

    def forward(self, given: Tensor) -> Tensor:
        return self._compute(self.base, self._tokens[0], given)


def _looked_up(embedding: nn.Embedding, tokens: AddedTokens, ids: Tensor) -> Tensor:
    index = ids - tokens.first_id
    added = (index >= 0) & (index < len(tokens))
    base: Tensor = embedding(ids.masked_fill(added, 0))
    rows = nn.functional.embedding(index.clamp(0, len(tokens) - 1), tokens.rows_of("embedding"))
    # Gemma's embedding multiplies what it looks up
    scale = getattr(embedding, "embed_scale", 1.0)
    return torch.where(added.unsqueeze(-1), (rows * scale).to(base.dtype), base)


def _scored(head: nn.Linear, tokens: AddedTokens, hidden: Tensor) -> Tensor:
    logits: Tensor = head(hidden)
    added = nn.functional.linear(hidden, tokens.rows_of("head").to(hidden.dtype))
    if tokens.hidden_from_base and not tokens.enabled:
        added = torch.full_like(added, float("-inf"))
    # a base may have more rows than tokens: the first of those then belong to the added ones
    first = tokens.first_id
    return torch.cat([logits[..., :first], added, logits[..., first + len(tokens) :]], dim=-1)


def pieces_of_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """The ids that ``tokenizer``, to which nothing was added yet, splits each text into.

    Raises:
        ConfigError: a text is a token already.
    """
    vocabulary = tokenizer.get_vocab()
    pieces = [list(tokenizer.encode(text, add_special_tokens=False)) for text in texts]
    known = [text for text, ids in zip(texts, pieces, strict=True) if text in vocabulary or len(ids) < 2]
    if known:
        raise ConfigError(
            f"{len(known)} of {len(texts)} tokens are tokens of the base already",
            where="--add-tokens",
            details=[repr(text) for text in known],
            remedy="leave them out",
        )
    return pieces


def add_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> int:
    """Add ``texts`` as tokens of their own, and give the id of the first; the others follow.

    A token stands wherever its text does, within a word too, as is usual for added tokens.
    """
    first = len(tokenizer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in texts])
    assert tokenizer.convert_tokens_to_ids(list(texts)) == list(range(first, first + len(texts)))
    return first


@contextmanager
def added_tokens_hidden(model: PreTrainedModel) -> Iterator[None]:
    """In the block, a model that is switched off does not have the added tokens at all; see :class:`AddedTokens`."""
    added = [module for module in model.modules() if isinstance(module, AddedTokens)]
    before = [tokens.hidden_from_base for tokens in added]
    for tokens in added:
        tokens.hidden_from_base = True
    try:
        yield
    finally:
        for tokens, hidden in zip(added, before, strict=True):
            tokens.hidden_from_base = hidden


def attach_tokens(
    model: PreTrainedModel, pieces: Sequence[Sequence[int]], *, first_id: int, hidden_from_base: bool = False
) -> AddedTokens:
    """Give ``model`` rows for added tokens; its own are not touched. To be called after an adapter is attached.

    Args:
        model: the base, frozen.
        pieces: ids of the base that the text of each added token consists of.
        first_id: id of the first added token.
        hidden_from_base: see :class:`AddedTokens`.

    Raises:
        ModelError: embeddings or head are of a form that cannot be extended.
    """
    embedding: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    names = {id(module): name for name, module in model.named_modules()}
    if not isinstance(embedding, nn.Embedding) or type(head) is not nn.Linear or first_id > len(embedding.weight):
        raise ModelError(
            f"{type(model).__name__} has embeddings or a head that tokens cannot be added to",
            details=[f"embedding {type(embedding).__name__}", f"head {type(head).__name__}"],
            remedy="train without --add-tokens",
        )
    tied = head.weight is embedding.weight
    starts = [_means(embedding.weight, pieces)] + ([] if tied else [_means(head.weight, pieces)])
    tokens = AddedTokens(first_id, starts[0], None if tied else starts[1], hidden_from_base=hidden_from_base)
    tokens.names = {"embedding": names[id(embedding)], "head": names[id(head)]}
    model.set_input_embeddings(_Extended(embedding, tokens, _looked_up))
    model.set_output_embeddings(_Extended(head, tokens, _scored))
    model.add_module("hone_added_tokens", tokens)
    config: Any = model.config.get_text_config()
    config.vocab_size = max(config.vocab_size, first_id + len(pieces))
    return tokens


def added_tokens_of(model: nn.Module) -> AddedTokens | None:
    """The added tokens of ``model``; None where it has none."""
    return next((module for module in model.modules() if isinstance(module, AddedTokens)), None)


def _means(weight: Tensor, pieces: Sequence[Sequence[int]]) -> Tensor:
    rows = [weight.detach()[torch.tensor(ids, device=weight.device)].float().mean(dim=0) for ids in pieces]
    return torch.stack(rows)


@torch.no_grad()
def merge_tokens(model: PreTrainedModel) -> None:
    """Make added rows, where there are some, part of the model's own matrices; the model is a plain one afterwards."""
    tokens = added_tokens_of(model)
    if tokens is None:
        return
    embedding: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    model.set_input_embeddings(embedding.base)
    model.set_output_embeddings(head.base)
    del model.hone_added_tokens
    size = tokens.first_id + len(tokens)
    config: Any = model.config.get_text_config()
    if size > len(embedding.base.weight):
        config.vocab_size = len(embedding.base.weight)
        model.resize_token_embeddings(size, mean_resizing=False)
    window = slice(tokens.first_id, size)
    for side, module in (("embedding", model.get_input_embeddings()), ("head", model.get_output_embeddings())):
        weight: Any = module.weight
        weight.data[window] = tokens.rows_of(side).to(weight.dtype)
