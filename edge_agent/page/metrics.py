"""What the agent counts, for Prometheus: GET /metrics, asked by programs on this device and by nobody else.

Behind a proxy on the gateway every visitor comes from this device: such a proxy must not pass /metrics on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edge_agent.page.answers import error
from edge_agent.page.desk import Desk
from models.form.signin import is_loopback

if TYPE_CHECKING:
    from prometheus_client.core import Metric


def routes(desk: Desk) -> list[Route]:
    def metrics(request: Request) -> Response:
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest  # only where it is used

        if request.client is None or not is_loopback(request.client.host):
            return error(403, "not_from_here", "only programs on this device may ask for this")
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Status(desk.agent.status()))
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return [Route("/metrics", metrics)]


class _Status:
    """A collector of one moment."""

    def __init__(self, status: dict[str, Any]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

        def family(
            kind: Any, name: str, text: str, labels: str, rows: Sequence[tuple[tuple[str, ...], float]]
        ) -> Metric:
            made: Metric = kind(f"pdm_{name}", text, labels=labels.split())
            for values, number in rows:
                made.add_metric(values, number)  # type: ignore[attr-defined]
            return made

        s, counter, gauge = self._status, CounterMetricFamily, GaugeMetricFamily
        model = {"name": s["model"]["name"], "version": str(s["model"]["version"]), "sha256": s["model"]["sha256"]}
        yield InfoMetricFamily("pdm_model", "the verified model that runs", value=model | {"step": s["step"]})
        yield gauge("pdm_uptime_seconds", "since the agent's start", value=s["uptime_s"])
        yield gauge("pdm_resident_bytes", "memory of the process", value=s["rss_bytes"])
        if s["connected"] is not None:
            yield gauge("pdm_connected", "1: there is a connection to the fleet's broker", value=s["connected"])
        assets, streams = s["assets"].items(), s["outbox"].items()
        by_asset = [((name,), a) for name, a in assets]
        yield family(counter, "windows", "scored", "asset", [(k, a["windows"]) for k, a in by_asset])
        yield family(gauge, "alarm", "1: an alarm is open", "asset", [(k, a["alarm"]) for k, a in by_asset])
        scores = [(k, a["score"]) for k, a in by_asset if a["score"] is not None]
        yield family(gauge, "score", "of the last window, 0 to 1", "asset", scores)
        lives = [((name, a["life"]["unit"]), a["life"]["estimate"]) for name, a in assets if a.get("life")]
        yield family(gauge, "remaining_life", "estimated, cut at the model's cap", "asset unit", lives)
        dropped = [((name, cause), n) for name, a in assets for cause, n in a["dropped"].items()]
        yield family(counter, "dropped", "samples and windows not scored", "asset cause", dropped)
        yield family(counter, "records_produced", "made", "stream", [((k,), c["produced"]) for k, c in streams])
        evicted = [((k, cause), n) for k, c in streams for cause, n in c["evicted"].items()]
        yield family(counter, "records_evicted", "given up", "stream cause", evicted)
        yield family(gauge, "records_waiting", "for the server", "stream", [((k,), c["waiting"]) for k, c in streams])
        yield family(gauge, "waiting_bytes", "the same", "stream", [((k,), c["waiting_bytes"]) for k, c in streams])
        yield family(counter, "counted", "everything else", "what", [((k,), n) for k, n in s["counters"].items()])
