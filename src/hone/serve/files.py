"""``/v1/files``: upload, list, read and delete files."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, File, Form, Query, UploadFile
from fastapi.responses import FileResponse

from hone.registry.uploads import Upload, delete_upload, find_upload, list_uploads, store_upload, upload_path
from hone.serve.settings import ServerSettings
from hone.serve.wire import ERROR_RESPONSES, After, ApiError, Limit, list_page, page_after
from hone.types import JsonDict

__all__ = ["check_json_lines", "file_object", "files_router", "require_upload"]

_MOST_NAMED_LINES = 1000
_MOST_LINE_BYTES = 16 * 2**20
_EXPECTED = "Expected file to have JSONL format, where every line is a valid JSON dictionary."

Purpose = Literal["assistants", "batch", "evals", "fine-tune", "user_data", "vision"]


def files_router(settings: ServerSettings) -> APIRouter:
    """The routes of files."""
    router = APIRouter(prefix="/v1/files", tags=["files"], responses=ERROR_RESPONSES)
    home = settings.home

    @router.post("")
    def create_file(
        file: Annotated[UploadFile, File(description="Its content.")],
        purpose: Annotated[Purpose, Form(description="What it is for: fine-tune for training rows.")],
        anchor: Annotated[Literal["created_at"] | None, Form(alias="expires_after[anchor]")] = None,
        seconds: Annotated[int | None, Form(alias="expires_after[seconds]", ge=3600, le=2_592_000)] = None,
    ) -> JsonDict:
        """Upload a file."""
        if (anchor is None) != (seconds is None):
            raise ApiError("expires_after needs both anchor and seconds", param="expires_after")
        expires_at = None if seconds is None else int(time.time()) + seconds
        upload = store_upload(
            home, file.file, filename=file.filename or "upload", purpose=purpose, expires_at=expires_at,
            check=check_json_lines if purpose == "fine-tune" else lambda _path: None,
        )  # fmt: skip
        return file_object(upload)

    @router.get("")
    def list_files(
        purpose: str | None = None,
        after: After = None,
        limit: Limit = 10_000,
        order: Annotated[Literal["asc", "desc"], Query(description="By the time of upload.")] = "desc",
    ) -> JsonDict:
        """List files."""
        rows = [one for one in list_uploads(home) if purpose is None or one.purpose == purpose or one.id == after]
        rows = rows if order == "asc" else rows[::-1]
        page, has_more = page_after(rows, after=after, limit=limit, cursors=settings.cursors)
        return list_page([file_object(upload) for upload in page], has_more=has_more)

    @router.get("/{file_id}")
    def retrieve_file(file_id: str) -> JsonDict:
        """Show a file."""
        return file_object(require_upload(home, file_id))

    @router.delete("/{file_id}")
    def delete_file(file_id: str) -> JsonDict:
        """Delete a file."""
        require_upload(home, file_id)
        return {"id": file_id, "object": "file", "deleted": delete_upload(home, file_id)}

    @router.get("/{file_id}/content", response_class=FileResponse)
    def file_content(file_id: str) -> FileResponse:
        """Read a file."""
        upload = require_upload(home, file_id)
        media = "text/csv" if upload.purpose == "fine-tune-results" else "application/octet-stream"
        return FileResponse(upload_path(home, upload.id), media_type=media, filename=upload.filename)

    return router


def file_object(upload: Upload) -> JsonDict:
    """A file as the API shows it."""
    return {
        "id": upload.id,
        "object": "file",
        "bytes": upload.bytes,
        "created_at": upload.created_at,
        "expires_at": upload.expires_at,
        "filename": upload.filename,
        "purpose": upload.purpose,
        "status": "processed",
        "status_details": None,
    }


def require_upload(home: Path, file_id: str, *, param: str = "id", status: int = 404) -> Upload:
    """The upload of that id.

    Raises:
        ApiError: there is none.
    """
    upload = find_upload(home, file_id)
    if upload is None:
        raise ApiError(f"No such File object: {file_id}", status=status, param=param)
    return upload


def check_json_lines(path: Path) -> None:
    """Refuse a file of training rows in which a line is no JSON object; every such line is named.

    Raises:
        ApiError: there is such a line, or none at all.
    """
    problems, found, number = [], 0, 0
    with path.open("rb") as lines:
        while line := lines.readline(_MOST_LINE_BYTES + 1):
            number += 1
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if len(line) > _MOST_LINE_BYTES:
                problems.append(f"Line {number} is longer than 16 MiB.")
                break
            if not text.strip():
                continue
            found += 1
            if problem := _problem_of(text):
                problems.append(f"Line {number} {problem}.")
    if not found:
        problems.append("The file is empty.")
    if problems:
        named = problems[:_MOST_NAMED_LINES]
        more = [f"And {len(problems) - len(named)} more lines."] if len(problems) > len(named) else []
        raise ApiError(" ".join([_EXPECTED, *named, *more]), param="file", code="invalid_file_format")


def _problem_of(line: bytes) -> str | None:
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError:
        return "is not UTF-8"
    except RecursionError:
        return "is nested too deeply"
    except ValueError:
        return "is not valid JSON"
    return None if isinstance(value, dict) else "is not a JSON dictionary"
