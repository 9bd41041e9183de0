"""The server's process: it listens, starts workers, and ends when it is told to, with its answers finished."""

from __future__ import annotations

import socket
import sys

import uvicorn
from starlette.types import ASGIApp

from hone.errors import ConfigError
from hone.serve.settings import LOOPBACK_HOSTS

__all__ = ["GracefulServer", "bind", "is_loopback"]

_BACKLOG = 512
_GRACE_SECONDS = 30
_KEEP_ALIVE_SECONDS = 30


class GracefulServer(uvicorn.Server):
    """uvicorn's server, which says when it begins to stop."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                access_log=False,
                log_level="warning",
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_GRACE_SECONDS,
                lifespan="on",
            )
        )

    @property
    def is_ready(self) -> bool:
        """Whether it is not stopping."""
        return not self.should_exit

    def serve_on(self, listening: socket.socket) -> None:
        """Answer until SIGINT or SIGTERM; then finish the answers that have begun, for at most 30 seconds.

        Args:
            listening: from :func:`bind`.
        """
        try:
            self.run(sockets=[listening])
        except KeyboardInterrupt:  # raised once more by the signal after all is finished
            return


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        host: an address or a name of this machine.
        port: 0 for any that is free.

    Raises:
        ConfigError: the address is not this machine's, or the port is taken.
    """
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, number)
        if sys.platform != "win32":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            where="--host, --port",
            remedy="name another port with --port; 0 takes any that is free",
        ) from error
    return listening


def is_loopback(host: str) -> bool:
    """Whether a server on that address is reached from this machine alone."""
    return host in ("::1", *LOOPBACK_HOSTS)
