"""The agent's own pages and the technician's form. Work on the plant's network, with no server."""

from edge_agent.page.app import make_app
from edge_agent.page.desk import Desk
from edge_agent.page.server import PageServer
from edge_agent.page.serving import Serving

__all__ = ["Desk", "PageServer", "Serving", "make_app"]
