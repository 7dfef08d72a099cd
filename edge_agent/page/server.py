"""uvicorn beside the agent's other threads."""

from __future__ import annotations

import logging
import socket

import uvicorn
from starlette.applications import Starlette

from edge_agent.errors import AgentError

log = logging.getLogger(__name__)


class PageServer:
    """uvicorn in a thread of the agent's."""

    def __init__(self, app: Starlette, host: str, port: int) -> None:
        """Listens from here on. A port that is taken is no reason not to watch machines: then it is a free one.

        Raises:
            AgentError: this host is none of the device's.
        """
        try:
            self._socket = socket.create_server((host, port))
        except OSError as taken:
            try:
                self._socket = socket.create_server((host, 0))
            except OSError as exc:
                raise AgentError(f"the page can not listen on {host}: {exc.strerror}") from exc
            log.warning("page on another port", extra={"wanted": port, "reason": taken.strerror})
        self.url = f"http://{host}:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))

    def loop(self) -> None:
        """Until `stop`."""
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        self._server.should_exit = True
