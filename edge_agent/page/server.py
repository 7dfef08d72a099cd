"""uvicorn beside the agent's other threads."""

from __future__ import annotations

import logging
import socket

import uvicorn
from starlette.applications import Starlette

from edge_agent.certificate import Files
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

    def __init__(self, app: Starlette, host: str, port: int, name: str = "", tls: Files | None = None) -> None:
        """Listens from here on. A port that is taken is no reason not to watch machines: then it is a free one.

        Args:
            name: that phones use for this host, where there is one.
            tls: certificate and key; without them it is plain HTTP.

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
        self.url = f"{'https' if tls else 'http'}://{name or host}:{self._socket.getsockname()[1]}"
        self._tls = tls
        # Without descriptors asyncio logs and tries anew once for each place in the backlog, so that is short.
        self._config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            lifespan="off",
            backlog=8,
            ssl_certfile=tls and tls.chain,
            ssl_keyfile=tls and tls.key,
        )
        self._config.load()
        self._server = _Server(self._config)

    def loop(self, pulse: Pulse = no_pulse) -> None:
        """Until `stop`."""
        self._server.pulse = pulse
        self._server.run(sockets=[self._socket])

    def reload(self) -> None:
        """Show the certificate that is on disk now, from the next connection on."""
        if self._tls and self._config.ssl:
            self._config.ssl.load_cert_chain(self._tls.chain, self._tls.key)

    def stop(self) -> None:
        self._server.should_exit = True
