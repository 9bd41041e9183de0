"""``/v1/fine_tuning/checkpoints/{model}/permissions``: which projects may use a model's checkpoints.

One home is one organisation; permissions are kept for clients that manage them, and answered as they were granted.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from hone.registry.permissions import Permission, delete_permission, grant_permissions, list_permissions
from hone.serve.models import resolve_served_model
from hone.serve.settings import ServerSettings
from hone.serve.wire import ERROR_RESPONSES, After, ApiError, Limit, list_page, page_after
from hone.types import JsonDict

__all__ = ["PermissionRequest", "permissions_router"]

_PREFIX = "/v1/fine_tuning/checkpoints/{fine_tuned_model_checkpoint}/permissions"


class PermissionRequest(BaseModel):
    """The body of ``POST .../permissions``."""

    model_config = ConfigDict(extra="forbid")

    project_ids: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=128)]], Field(min_length=1, max_length=64)
    ]


def permissions_router(settings: ServerSettings) -> APIRouter:
    """The routes of permissions."""
    router = APIRouter(prefix=_PREFIX, tags=["permissions"], responses=ERROR_RESPONSES)
    home = settings.home

    @router.post("")
    def create_permissions(fine_tuned_model_checkpoint: str, asked: PermissionRequest) -> JsonDict:
        """Allow projects to use a model."""
        _require_tuned(settings, fine_tuned_model_checkpoint)
        granted = grant_permissions(home, fine_tuned_model_checkpoint, asked.project_ids)
        return list_page([_permission_object(one) for one in granted], has_more=False)

    @router.get("")
    def list_all(
        fine_tuned_model_checkpoint: str,
        project_id: str | None = None,
        after: After = None,
        limit: Limit = 10,
        order: Annotated[Literal["ascending", "descending"], Query(description="By time.")] = "descending",
    ) -> JsonDict:
        """List a model's permissions."""
        _require_tuned(settings, fine_tuned_model_checkpoint)
        rows = list_permissions(home, fine_tuned_model_checkpoint)
        rows = [one for one in rows if project_id is None or one.project_id == project_id or one.id == after]
        rows = rows if order == "ascending" else rows[::-1]
        page, has_more = page_after(rows, after=after, limit=limit, cursors=settings.cursors)
        return list_page([_permission_object(one) for one in page], has_more=has_more)

    @router.delete("/{permission_id}")
    def delete(fine_tuned_model_checkpoint: str, permission_id: str) -> JsonDict:
        """Withdraw a permission."""
        _require_tuned(settings, fine_tuned_model_checkpoint)
        if not delete_permission(home, fine_tuned_model_checkpoint, permission_id):
            raise ApiError(f"No such permission: {permission_id}", status=404, param="permission_id")
        return {"id": permission_id, "object": "checkpoint.permission", "deleted": True}

    return router


def _permission_object(permission: Permission) -> JsonDict:
    return {
        "id": permission.id,
        "object": "checkpoint.permission",
        "created_at": permission.created_at,
        "project_id": permission.project_id,
    }


def _require_tuned(settings: ServerSettings, model: str) -> None:
    if resolve_served_model(settings, model).kind not in ("fine-tuned", "checkpoint"):
        raise ApiError(
            f"{model} is no fine-tuned model; permissions belong to those.", param="fine_tuned_model_checkpoint"
        )
