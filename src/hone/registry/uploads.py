"""Uploaded files: their bytes in ``<home>/uploads/``, their names and purposes in the registry."""

from __future__ import annotations

import os
import secrets
import shutil
import string
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from sqlalchemy import insert, select, update

from hone.files import atomic_folder, remove_folder
from hone.registry.store import open_store, uploads

__all__ = ["Upload", "delete_upload", "find_upload", "list_uploads", "new_id", "store_upload", "upload_path"]

_FOLDER = "uploads"
_CONTENT = "content.jsonl"
_LETTERS = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class Upload:
    """An uploaded file.

    Args:
        sequence: its place in the order of uploads.
        id: as ``file-...``.
        filename: as the client named it.
        bytes: of its content.
        purpose: as ``fine-tune``.
        created_at: seconds since 1970.
        expires_at: after which it is gone; None for never.
        deleted_at: when it was deleted; None while it is there.
    """

    sequence: int
    id: str
    filename: str
    bytes: int
    purpose: str
    created_at: int
    expires_at: int | None
    deleted_at: int | None


def new_id(prefix: str) -> str:
    """A name that nobody guesses: ``prefix`` and 24 letters and digits."""
    return prefix + "".join(secrets.choice(_LETTERS) for _ in range(24))


def store_upload(
    home: Path,
    source: IO[bytes],
    *,
    filename: str,
    purpose: str,
    expires_at: int | None = None,
    identity: str | None = None,
    check: Callable[[Path], None] = lambda _path: None,
) -> Upload:
    """Keep a copy of a file, whole or not at all.

    Args:
        home: the home folder.
        source: read from where it stands to its end.
        filename: as the client named it.
        purpose: what it is for.
        expires_at: seconds since 1970 after which it is gone; None for never.
        identity: the id; a new one unless given.
        check: looks at the copy before it counts; what it raises refuses the file.

    Raises:
        StorageError: no space or no permission.
    """
    upload_id = identity or new_id("file-")
    with atomic_folder(home / _FOLDER / upload_id) as temporary:
        _copy(source, temporary / _CONTENT)
        check(temporary / _CONTENT)
        size = (temporary / _CONTENT).stat().st_size
    values = {
        "id": upload_id,
        "filename": filename,
        "bytes": size,
        "purpose": purpose,
        "created_at": int(time.time()),
        "expires_at": expires_at,
        "deleted_at": None,
    }
    with open_store(home).write() as connection:
        connection.execute(insert(uploads).values(values))
        row = connection.execute(select(uploads).where(uploads.c.id == upload_id)).one()
    return Upload(**row._mapping)


def upload_path(home: Path, upload_id: str) -> Path:
    """Where the content of an upload lies; the id is one that the registry holds."""
    return home.absolute() / _FOLDER / upload_id / _CONTENT


def find_upload(home: Path, upload_id: str) -> Upload | None:
    """The upload of that id; None where there is none, or it is deleted or expired.

    Raises:
        StorageError: the registry cannot be read.
    """
    with open_store(home).read() as connection:
        row = connection.execute(select(uploads).where(uploads.c.id == upload_id)).first()
    found = Upload(**row._mapping) if row else None
    return found if found and _is_there(found) else None


def list_uploads(home: Path) -> list[Upload]:
    """All that were ever uploaded, oldest first; deleted ones too, which pages may begin after.

    Raises:
        StorageError: the registry cannot be read.
    """
    with open_store(home).read() as connection:
        rows = connection.execute(select(uploads).order_by(uploads.c.sequence)).all()
    return [_marked(Upload(**row._mapping)) for row in rows]


def delete_upload(home: Path, upload_id: str) -> bool:
    """Delete an upload and its content.

    Returns:
        Whether there was one.

    Raises:
        StorageError: the registry cannot be written, or the content cannot be removed.
    """
    with open_store(home).write() as connection:
        gone = update(uploads).where(uploads.c.id == upload_id, uploads.c.deleted_at.is_(None))
        deleted = connection.execute(gone.values(deleted_at=int(time.time()))).rowcount > 0
    folder = upload_path(home, upload_id).parent
    if deleted and folder.is_dir():
        remove_folder(folder)
    return deleted


def _copy(source: IO[bytes], target: Path) -> None:
    # inside an atomic folder, which is synced and renamed as a whole
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as written:
        shutil.copyfileobj(source, written, 1 << 20)


def _is_there(upload: Upload) -> bool:
    return upload.deleted_at is None and (upload.expires_at is None or upload.expires_at > time.time())


def _marked(upload: Upload) -> Upload:
    """An expired one as deleted when it expired."""
    if upload.deleted_at is not None or _is_there(upload):
        return upload
    return replace(upload, deleted_at=upload.expires_at)
