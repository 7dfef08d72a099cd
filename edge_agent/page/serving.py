"""The pages as they are served: the form's, over HTTPS where phones know this device by a name, and the plain one that
brings the certificate to them. Certificates are renewed while the agent runs."""

from __future__ import annotations

import logging
import time
from datetime import datetime
from pathlib import Path
from typing import Final

from edge_agent import certificate
from edge_agent.config import Form
from edge_agent.errors import AgentError
from edge_agent.page.app import make_app
from edge_agent.page.desk import Desk
from edge_agent.page.help import make_help
from edge_agent.page.server import PageServer

log = logging.getLogger(__name__)
LOOK_S: Final = 60.0


class Serving:
    """Listens from here on. Raises AgentError: an address is none of the device's, or a certificate cannot be made."""

    def __init__(self, desk: Desk, settings: Form, state_dir: Path) -> None:
        self._settings, self._state_dir, self._device = settings, state_dir, desk.agent.device
        self._looked, self._shown_until = time.monotonic(), None
        if not settings.names:
            self.page = PageServer(make_app(desk), settings.host, settings.port)
            self.servers = [self.page]
            return
        certificate.ensure(state_dir, self._device, settings.names, desk.now())
        self._shown_until = certificate.ends(state_dir)
        tls, name = certificate.files(state_dir), settings.names[0]
        self.page = PageServer(make_app(desk), settings.host, settings.port, name, tls)
        self.servers = [self.page]
        if settings.help_port >= 0:
            app = make_help(state_dir, self._device, self.page.url)
            self.servers.append(PageServer(app, settings.host, settings.help_port, name))

    def look(self, now: datetime) -> None:
        """Now and then: renew the certificate when it is time to, and show the one on disk. Never raises."""
        if self._shown_until is None or time.monotonic() - self._looked < LOOK_S:
            return
        self._looked = time.monotonic()
        try:
            certificate.ensure(self._state_dir, self._device, self._settings.names, now)
            ends = certificate.ends(self._state_dir)
            if ends != self._shown_until:
                self.page.reload()
                self._shown_until = ends
                log.info("certificate renewed", extra={"until": f"{ends:%Y-%m-%d}"})
        except (AgentError, OSError) as exc:
            log.error("certificate not renewed", extra={"reason": str(exc), "until": f"{self._shown_until:%Y-%m-%d}"})

    def stop(self) -> None:
        for server in self.servers:
            server.stop()
