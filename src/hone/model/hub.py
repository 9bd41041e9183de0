"""Bases from the Hugging Face hub: fetched into the hub's own cache, safetensors and tokenizer files only.

``HF_HOME``, ``HF_HUB_OFFLINE``, ``HF_ENDPOINT`` and the user's own hub login are honoured, since the hub's library does
the fetching. Code in a repository is never fetched, nor are pickle weights.
"""

from __future__ import annotations

import errno
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.constants import is_offline_mode
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from hone.errors import ModelError, StorageError
from hone.model.model_folder import weight_file_names

__all__ = ["hub_folder"]

_DESCRIPTION_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
# Repositories keep other formats (onnx, gguf, original checkpoints) in folders of their own.
_FOLDERS = ("*/*",)
# The HTTP library's own base error (proxies, broken connections), whichever library the hub's uses.
_HTTP_ERROR: type[BaseException] = HfHubHTTPError.__mro__[1]


def hub_folder(repository: str) -> Path:
    """The local folder of a hub repository, with its config, tokenizer and safetensors weights; fetched where needed.

    Args:
        repository: ``org/name``.

    Raises:
        ModelError: there is no such repository, it is gated or private, the hub cannot be reached and the cache has no
            whole copy, or it has no safetensors weights.
        StorageError: the hub's cache folder is full or cannot be written.
    """
    folder = _fetch(repository, _DESCRIPTION_FILES)
    if not (folder / "config.json").is_file():
        what = (
            "an adapter, not a base" if (folder / "adapter_config.json").is_file() else "no model of transformers' form"
        )
        raise ModelError(
            f"the hub repository {repository} holds {what}: it has no config.json",
            where="model",
            remedy="name the base that an adapter was trained on, or a repository with config.json and safetensors",
        )
    names = weight_file_names(folder) or ["model.safetensors"]
    folder = _fetch(repository, names)
    missing = [name for name in names if not (folder / name).is_file()]
    if not missing:
        return folder
    if is_offline_mode():
        raise _offline(repository, "the cached copy lacks weights: " + ", ".join(missing[:3]))
    raise ModelError(
        f"the hub repository {repository} has no safetensors weights",
        where="model",
        why="weights in other formats are pickles, which can run any code when they are loaded",
        remedy="look for a copy with safetensors (many repositories have one as a pull request on the hub), or convert "
        f'it where you trust it: python -c "from transformers import AutoModelForCausalLM as M; '
        f"M.from_pretrained('{repository}', use_safetensors=False).save_pretrained('converted')\"",
    )


def _fetch(repository: str, patterns: list[str] | tuple[str, ...]) -> Path:
    try:
        return Path(snapshot_download(repository, allow_patterns=list(patterns), ignore_patterns=list(_FOLDERS)))
    except GatedRepoError as error:  # before its parent class, below
        raise ModelError(
            f"the hub repository {repository} is gated: its owner must grant you access first",
            where="model",
            remedy=f"ask for access on the page of {repository}, then run `hf auth login` once",
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"there is no hub repository {repository}, or it is private; nor is there a folder of that name",
            where="model",
            remedy="check the spelling; for a private one, run `hf auth login` once",
        ) from error
    except LocalEntryNotFoundError as error:
        if is_offline_mode():
            raise _offline(repository, "it is not in the cache") from error
        raise _unreachable(repository, error) from error
    except HFValidationError as error:
        raise ModelError(f"{repository!r} cannot be the id of a hub repository: {error}", where="model") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise StorageError(
                f"the hub's cache cannot be written while fetching {repository}: {error.strerror}",
                where=error.filename,
                remedy="free some space, or choose another disk with HF_HOME",
            ) from error
        raise _unreachable(repository, error) from error
    except _HTTP_ERROR as error:
        raise _unreachable(repository, error) from error


def _offline(repository: str, reason: str) -> ModelError:
    return ModelError(
        f"the hub repository {repository} cannot be used offline: {reason}",
        where="model",
        why="HF_HUB_OFFLINE forbids fetching it",
        remedy="unset HF_HUB_OFFLINE for one run, or name a local folder or the embedded default",
    )


def _unreachable(repository: str, error: BaseException) -> ModelError:
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ModelError(
        f"the hub cannot be reached for {repository}, and its cache has no whole copy: {said}",
        where="model",
        remedy="check the connection and HF_ENDPOINT, or name a local folder or the embedded default",
    )
