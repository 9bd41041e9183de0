"""What a server was started with; every part of it is given this one object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["LOOPBACK_HOSTS", "ORGANIZATION", "ServerSettings"]

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")
"""Names under which a server on this machine is asked; other sites' pages cannot use another one (DNS rebinding)."""

ORGANIZATION = "hone"
"""The organisation's part of a model's name: ``ft:base:hone:suffix:id``."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What a server was started with.

    Args:
        home: hone's home folder.
        bases: what may be fine-tuned and asked, by the name on the wire; the value is the base's own name.
        key: that each request must carry; None only where the server listens on loopback alone.
        hosts: values of the header Host that are answered, without a port.
        origins: values of the header Origin that may change something; other sites' pages may not.
        most_upload_bytes: of an uploaded file.
        most_body_bytes: of any other request.
        most_requests: answered at once; further ones are told to come again.
        run_python_graders: whether programs that a request holds may run here, as the server's own user.
        documents: folders of documents by the served name that they are attached to.
        cursors: values of ``after`` that stand for the end of any list, for conformance tests.
    """

    home: Path
    bases: Mapping[str, str]
    key: str | None = None
    hosts: tuple[str, ...] = LOOPBACK_HOSTS
    origins: tuple[str, ...] = ()
    most_upload_bytes: int = 512 * 2**20
    most_body_bytes: int = 16 * 2**20
    most_requests: int = 256
    run_python_graders: bool = False
    documents: Mapping[str, Path] = field(default_factory=dict)
    cursors: frozenset[str] = field(default_factory=frozenset)
