"""What the technician's phone asks the agent: docs/form-api.md. The fleet server answers the same."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edge_agent.annotate import Episode
from edge_agent.page.answers import answer, error
from edge_agent.page.desk import Desk
from models.contract.codec import Unreadable
from models.contract.labels import LABELS_VERSION, taxonomy
from models.contract.messages import AssetHealth
from models.form import api, speech
from models.form.sent import read_annotation, wrong_fields

ALARMS, OUTCOMES = 40, 50  # the newest; the bootstrap leaves out more where they do not fit


def routes(desk: Desk) -> list[Route]:
    agent, journal, health = desk.agent, desk.journal, desk.health

    async def put_annotation(request: Request) -> Response:
        given = request.path_params["annotation_id"]
        try:
            said = read_annotation(given, await request.body())
        except Unreadable as exc:
            return error(422, "unreadable", str(exc), given, wrong_fields(exc))
        if said.asset not in health():
            text = f"{said.asset} is not watched by this device"
            return error(422, "unknown_asset", text, given, [api.Reason(field="asset", reason=text)])
        taken = journal.take(said.model_copy(update={"taken_at": datetime.now(UTC)}))
        if taken == "conflict":
            return error(409, "conflict", "this id stands for other words", given)
        state = "stored" if journal.is_stored(said.annotation_id) else "kept"
        return answer(
            api.Taken.model_validate(
                {"annotation_id": given, "taken": "new" if taken == "new" else "before", "state": state}
            ),
            201 if taken == "new" else 200,
        )

    def get_annotation(request: Request) -> Response:
        annotation_id: UUID = request.path_params["annotation_id"]
        stored = journal.is_stored(annotation_id)
        if stored is None:
            return error(404, "not_found", "there is no such annotation here", annotation_id)
        state = "stored" if stored else "kept"
        return answer(api.Taken.model_validate({"annotation_id": annotation_id, "taken": "before", "state": state}))

    def bootstrap(request: Request) -> Response:
        lang = speech.language(request.query_params.get("lang"))
        known = request.query_params.get("labels_version")
        assets = health()
        said = journal.said(OUTCOMES)
        answered = {each.annotation.event_id for each in said}
        whole = api.Bootstrap(
            host="agent",
            name=agent.device,
            now=datetime.now(UTC),
            sign_in="none",
            taxonomy=None if known == str(LABELS_VERSION) else taxonomy(),
            assets=tuple(_asset(name, agent.device, each) for name, each in assets.items()),
            alarms=tuple(
                _alarm(each, agent.device, lang, assets, each.event.event_id in answered)
                for each in journal.episodes(ALARMS)
            ),
            outcomes=tuple(
                speech.outcome_view(each.annotation, lang, state="stored" if each.stored else "kept") for each in said
            ),
            policy=speech.policy(lang),
        )
        return answer(api.fit(whole))

    def api_status(request: Request) -> Response:
        return JSONResponse(agent.status())

    def api_events(request: Request) -> Response:
        rows = [e.event.model_dump(mode="json") | {"open": e.open, "highest": e.score} for e in journal.episodes()]
        return JSONResponse({"events": rows})

    return [
        Route("/api/form/bootstrap", bootstrap),
        Route("/api/annotations/{annotation_id}", put_annotation, methods=["PUT"]),
        Route("/api/annotations/{annotation_id:uuid}", get_annotation),
        Route("/api/status", api_status),
        Route("/api/events", api_events),
    ]


def _asset(name: str, device: str, asset: AssetHealth) -> api.AssetView:
    return api.AssetView(
        id=name,
        kind=asset.kind,
        hall=asset.hall,
        code=api.short_code(name, asset.code),
        device=device,
        state=asset.state,
        alarm=asset.alarm,
        score=asset.score,
        last_sample_at=asset.last_sample_at,
    )


def _alarm(episode: Episode, device: str, lang: str, assets: dict[str, AssetHealth], answered: bool) -> api.AlarmView:
    asset = assets.get(episode.event.asset)
    end = episode.end
    if episode.open and asset and asset.last_sample_at:
        end = max(end, asset.last_sample_at)
    units = {signal.name: signal.unit for signal in asset.signals} if asset else {}
    return speech.alarm_view(
        episode.event,
        lang,
        device=device,
        open=episode.open,
        end=end,
        score=episode.score,
        units=units,
        answered=answered,
    )
