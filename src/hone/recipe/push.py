"""Pushing: an export put on the Hugging Face hub, in one commit."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from hone.engine.events import Event, Recorder
from hone.errors import ConfigError, StorageError
from hone.recipe.export import ExportResult, export_version
from hone.types import JsonDict

__all__ = ["PushResult", "push_version"]

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
# The HTTP library's own base error (proxies, broken connections), whichever library the hub's uses.
_HTTP_ERROR: type[BaseException] = HfHubHTTPError.__mro__[1]


@dataclass(frozen=True, slots=True)
class PushResult:
    """An export on the hub.

    Args:
        repository: as ``you/support``.
        commit_url: of the commit that holds the files.
        export: what was written, and how it was compared.
    """

    repository: str
    commit_url: str
    export: ExportResult

    def to_json(self) -> JsonDict:
        """As ``--json`` prints it: the export's fields but for its folder, which is gone, and these two."""
        export = {key: value for key, value in self.export.to_json().items() if key != "folder"}
        return {**export, "repository": self.repository, "commit_url": self.commit_url}


def push_version(
    reference: str,
    repository: str,
    *,
    target: str,
    weights: str | None = None,
    public: bool = False,
    accept_unproven: bool = False,
    home: Path,
    recorder: Recorder,
) -> PushResult:
    """Export a version, and upload the files as one commit; a repository that is not there is made.

    Args:
        reference: the version.
        repository: ``name`` or ``owner/name``.
        target: the format, as for :func:`hone.recipe.export.export_version`.
        weights: how they are stored.
        public: whether a repository that is made here may be read by anyone.
        accept_unproven: as for an export.
        home: hone's home folder.
        recorder: hears stages and notes.

    Raises:
        ConfigError: no token is set, or the repository's name is none.
        StorageError: the hub refuses, or cannot be reached; with its own words.
        HoneError: as for :func:`hone.recipe.export.export_version`; nothing is uploaded.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise ConfigError(f"{repository!r} is no name of a repository", where="REPO", remedy="name it as you/support")
    token = huggingface_hub.get_token()
    if not token:
        raise ConfigError(
            "no token of the Hugging Face hub is set",
            remedy="run `hf auth login` once, or set HF_TOKEN to a token that may write",
        )
    api = huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=token)
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=".push.") as scratch:
        export = export_version(
            reference, target=target, out=Path(scratch) / "export", weights=weights, accept_unproven=accept_unproven,
            known_as=repository, home=home, recorder=recorder,
        )  # fmt: skip
        recorder.record(Event("stage", {"name": "push", "detail": f"{len(export.files)} files to {repository}"}))
        try:
            made = api.create_repo(repository, private=not public, exist_ok=True)
            commit = api.upload_folder(
                folder_path=export.folder, repo_id=made.repo_id, commit_message=f"{export.version} as {target}, by hone"
            )
        except (HfHubHTTPError, OfflineModeIsEnabled, _HTTP_ERROR) as error:
            raise StorageError(
                f"the hub did not take it: {' '.join(str(error).split())}", where=repository,
                remedy="check its name, that the token may write to it, and that HF_HUB_OFFLINE is not set",
            ) from error  # fmt: skip
    return PushResult(made.repo_id, str(commit.commit_url), export)
