"""uvicorn beside the agent's other threads."""

from __future__ import annotations

import logging
import socket

import uvicorn
from starlette.applications import Starlette

from edge_agent.errors import AgentError
from edge_agent.vitals import Pulse, no_pulse

log = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    pulse: Pulse = staticmethod(no_pulse)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second, by the loop that answers."""
        self.pulse()
        return await super().on_tick(counter)


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
        # Without descriptors asyncio logs and tries anew once for each place in the backlog, so that is short.
        config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", backlog=8)
        self._server = _Server(config)

    def loop(self, pulse: Pulse = no_pulse) -> None:
        """Until `stop`."""
        self._server.pulse = pulse
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        self._server.should_exit = True
