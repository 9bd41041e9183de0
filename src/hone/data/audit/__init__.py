"""The audit of training data: every fault of a file, each with its place, in a pass that holds no rows in memory."""

from __future__ import annotations

from hone.data.audit.audit import audit_source, held_out_prompts
from hone.data.audit.repair import repair_file
from hone.data.audit.report import AuditReport

__all__ = ["AuditReport", "audit_source", "held_out_prompts", "repair_file"]
