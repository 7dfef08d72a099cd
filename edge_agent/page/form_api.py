"""What the technician's phone asks the agent: docs/form-api.md. The fleet server answers the same."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edge_agent.annotate import KEEP
from edge_agent.page import views
from edge_agent.page.answers import answer, error
from edge_agent.page.desk import Desk
from models.contract.codec import Unreadable, load
from models.contract.labels import LABELS_VERSION, taxonomy
from models.contract.people import Feedback
from models.form import api, speech
from models.form.gate import person_of, visitor_of
from models.form.sent import implicit, read_annotation, wrong_fields
from models.form.signin import reaches

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
        stamps: dict[str, Any] = {"taken_at": desk.now(), "sent_by": ""}
        if visitor := visitor_of(request):
            if desk.sign_in and not await run_in_threadpool(desk.sign_in.may_send_for, visitor.session, said.annotator):
                return error(403, "not_yours", f"{said.annotator} has never signed in on this phone", given)
            stamps["sent_by"] = visitor.who.person
        taken = desk.alarms.annotate(said.model_copy(update=stamps))
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
        if stored is None or not _may_see(request, annotation_id):
            return error(404, "not_found", "there is no such annotation here", annotation_id)
        state = "stored" if stored else "kept"
        return answer(api.Taken.model_validate({"annotation_id": annotation_id, "taken": "before", "state": state}))

    def bootstrap(request: Request) -> Response:
        lang = speech.language(request.query_params.get("lang"))
        known = request.query_params.get("labels_version")
        hall = request.query_params.get("hall")
        now, person, visitor = desk.now(), person_of(request), visitor_of(request)
        if desk.sign_in and person is None:
            return answer(
                api.Bootstrap(
                    host="agent",
                    name=agent.device,
                    now=now,
                    sign_in="enrolled",
                    me=visitor.who if visitor else None,
                    taxonomy=None if known == str(LABELS_VERSION) else taxonomy(),
                    policy=speech.policy(lang),
                )
            )
        assets = {name: each for name, each in health().items() if hall in (None, each.hall)}
        said = journal.said(OUTCOMES, person)
        answered = {each.annotation.event_id for each in said}
        asked = [each for each in views.questions(journal, now, person) if each.asset in assets]
        blind = {each.event_id for each in asked if each.blind}
        news = {str(each.annotation_id): each for each in journal.news().outcomes}
        shown = [each for each in journal.episodes(ALARMS) if each.event.asset in assets]
        states = desk.alarms.states(shown)
        holding = [row.said for row in desk.alarms.suppressions() if row.holds]
        quiet = {each.event_id for each in holding}
        whole = api.Bootstrap(
            host="agent",
            name=agent.device,
            now=now,
            sign_in="enrolled" if desk.sign_in else "none",
            me=visitor.who if visitor else None,
            taxonomy=None if known == str(LABELS_VERSION) else taxonomy(),
            assets=tuple(views.asset_view(name, agent.device, each) for name, each in assets.items()),
            alarms=tuple(
                views.alarm_view(
                    each,
                    agent.device,
                    lang,
                    assets[each.event.asset],
                    blind=each.event.event_id in blind,
                    answered=each.event.event_id in answered,
                    state=states[each.event.event_id],
                    suppressed=each.event.event_id in quiet,
                )
                for each in shown
            ),
            questions=tuple(speech.question_view(each, lang) for each in asked),
            outcomes=tuple(
                views.outcome_view(
                    each, lang, news, suppressed=each.annotation.annotation_id in {s.annotation_id for s in holding}
                )
                for each in said
            ),
            satisfaction=views.satisfaction(journal, agent.device, lang, now, person),
            policy=speech.policy(lang),
        )
        return answer(api.fit(whole))

    def history(request: Request) -> Response:
        query = request.query_params
        lang = speech.language(query.get("lang"))
        try:
            limit = int(query.get("limit", 50))
            before = datetime.fromisoformat(query["before"]) if "before" in query else None
            if not 1 <= limit <= 200 or (before and before.tzinfo is None):
                raise ValueError
        except ValueError:
            return error(422, "invalid", "limit is 1 to 200, before a time with its zone")
        news = {str(each.annotation_id): each for each in journal.news().outcomes}
        said = [
            each
            for each in journal.said(KEEP, person_of(request))
            if before is None or each.annotation.made_at < before
        ]
        said.sort(key=lambda each: each.annotation.made_at, reverse=True)
        found = tuple(views.outcome_view(each, lang, news) for each in said[:limit])
        return answer(api.History(outcomes=found, more=len(said) > limit))

    async def decline(request: Request) -> Response:
        question_id: UUID = request.path_params["question_id"]
        try:
            body = load(api.Declined, await request.body())
        except Unreadable as exc:
            return error(422, "unreadable", str(exc))
        person = _sender(request)
        key = uuid5(question_id, f"declined {person}")
        said = implicit("question_declined", key, person=person, detail=body.cannot, about=question_id)
        return _kept(said, question_id=question_id)

    async def satisfied(request: Request) -> Response:
        ask_id: UUID = request.path_params["ask_id"]
        try:
            body = load(api.Score5, await request.body())
        except Unreadable as exc:
            return error(422, "unreadable", str(exc))
        person = _sender(request)
        if ask_id not in api.asked_lately(agent.device, person, desk.now()):
            return error(404, "not_found", "nobody asked that")
        said = implicit("satisfaction", ask_id, person=person, value=body.score, made_at=body.at)
        return _kept(said, ask_id=ask_id)

    def _may_see(request: Request, annotation_id: UUID) -> bool:
        visitor = visitor_of(request)
        return (
            visitor is None or reaches(visitor.role, "reviewer") or journal.author(annotation_id) == visitor.who.person
        )

    def _kept(said: Feedback, **names: UUID) -> Response:
        taken = "new" if journal.take_feedback(said) else "before"
        return JSONResponse({name: str(value) for name, value in names.items()} | {"taken": taken, "state": "kept"})

    def api_status(request: Request) -> Response:
        return JSONResponse(agent.status())

    def api_events(request: Request) -> Response:
        rows = [e.event.model_dump(mode="json") | {"open": e.open, "highest": e.score} for e in journal.episodes()]
        return JSONResponse({"events": rows})

    return [
        Route("/api/form/bootstrap", bootstrap),
        Route("/api/form/history", history),
        Route("/api/form/questions/{question_id:uuid}", decline, methods=["PUT"]),
        Route("/api/form/satisfaction/{ask_id:uuid}", satisfied, methods=["PUT"]),
        Route("/api/annotations/{annotation_id}", put_annotation, methods=["PUT"]),
        Route("/api/annotations/{annotation_id:uuid}", get_annotation),
        Route("/api/status", api_status),
        Route("/api/events", api_events),
    ]


def _sender(request: Request) -> str:
    """Also of a locked session: what waited on the phone is its person's."""
    visitor = visitor_of(request)
    return visitor.who.person if visitor else ""
