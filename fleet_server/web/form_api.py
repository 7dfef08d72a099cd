"""What the technician's phone asks the server: docs/form-api.md. The agent answers the same."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID, uuid5

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from pydantic import AwareDatetime

from fleet_server.alarms.desk import hear_verdict
from fleet_server.errors import NotFound, Refused
from fleet_server.feedback import desk, intake, satisfaction
from fleet_server.store import annotations as spoken
from fleet_server.store import feedback as rows
from fleet_server.store.pool import Pool
from fleet_server.web.deps import PersonOf, PoolOf, SiteOf, VisitorOf
from models.contract.base import Message
from models.contract.codec import Unreadable
from models.contract.messages import Annotation
from models.contract.people import Feedback
from models.form import api, speech
from models.form.sent import implicit, read_annotation, wrong_fields
from models.form.signin import reaches

router = APIRouter()


@router.get("/form/bootstrap")
def bootstrap(
    site: SiteOf, visitor: VisitorOf, lang: str = "en", labels_version: int = 0, hall: str | None = None
) -> Response:
    """Everything that the form needs until the next one."""
    lang, me, sign_in = speech.language(lang), visitor.who if visitor else None, site.sign_in is not None
    with site.pool.connection() as conn:
        return _json(desk.bootstrap(conn, lang, known_labels=labels_version, hall=hall, sign_in=sign_in, me=me))


@router.get("/form/history")
def history(
    pool: PoolOf,
    person: PersonOf,
    lang: str = "en",
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: AwareDatetime | None = None,
) -> Response:
    """What was said, and what became of it."""
    with pool.connection() as conn:
        return _json(desk.history(conn, speech.language(lang), limit=limit, before=before, person=person))


@router.put("/form/questions/{question_id}")
def decline(question_id: UUID, body: api.Declined, pool: PoolOf, visitor: VisitorOf) -> dict[str, Any]:
    """Somebody can not answer this one."""
    person = visitor.who.person if visitor else ""
    key = uuid5(question_id, f"declined {person}")
    said = implicit("question_declined", key, person=person, detail=body.cannot, about=question_id)
    return {"question_id": question_id} | _keep(pool, said)


@router.put("/form/satisfaction/{ask_id}")
def satisfied(ask_id: UUID, body: api.Score5, pool: PoolOf, visitor: VisitorOf) -> dict[str, Any]:
    """This month's answer; the first one counts."""
    person = visitor.who.person if visitor else ""
    if not satisfaction.was_asked(ask_id, person, datetime.now(UTC)):
        raise NotFound("nobody asked that")
    said = implicit("satisfaction", ask_id, person=person, value=body.score, made_at=body.at)
    return {"ask_id": ask_id} | _keep(pool, said)


@router.put("/annotations/{annotation_id}")
async def put_annotation(annotation_id: UUID, request: Request, site: SiteOf, visitor: VisitorOf) -> Response:
    """201: stored now; 200: it was here, word for word; 409: this id stands for other words; 422: not an annotation.

    What a rule speaks against is stored all the same, and `status` and `reason` say so.
    """
    try:
        said = read_annotation(str(annotation_id), await request.body())
        if visitor and site.sign_in:
            if not await run_in_threadpool(site.sign_in.may_send_for, visitor.session, said.annotator):
                text = f"{said.annotator} has never signed in on this phone"
                return _refusal(403, "not_yours", text, annotation_id)
            said = said.model_copy(update={"sent_by": visitor.who.person})
        else:
            said = said.model_copy(update={"sent_by": ""})
        taken = await run_in_threadpool(take, site.pool, said)
    except Unreadable as exc:
        return _refusal(422, "unreadable", str(exc), annotation_id, wrong_fields(exc))
    except Refused as exc:
        return _refusal(409, "conflict", str(exc), annotation_id)
    return _json(taken, 201 if taken.taken == "new" else 200)


@router.get("/annotations/{annotation_id}")
def get_annotation(annotation_id: UUID, pool: PoolOf, visitor: VisitorOf) -> Response:
    """Whether it is here, and what became of it; to a technician only of their own."""
    with pool.connection() as conn:
        row = spoken.get(conn, annotation_id)
    others = visitor and row and row.annotator != visitor.who.person and not reaches(visitor.role, "reviewer")
    if row is None or others:
        raise NotFound(f"there is no annotation {annotation_id}")
    return _json(_taken(row, is_new=False))


def take(pool: Pool, said: Annotation) -> api.Taken:
    """Store an annotation made here, committed when this returns; what became of it.

    Raises:
        Refused: this id stands for other words.
    """
    with pool.connection() as conn:
        is_new = intake.receive(conn, said, via="server", received_at=datetime.now(UTC))
        if is_new:
            hear_verdict(conn, said)
        row = spoken.get(conn, said.annotation_id)
    assert row is not None, "it was stored just now"
    return _taken(row, is_new=is_new)


def _keep(pool: Pool, said: Feedback) -> dict[str, Any]:
    with pool.connection() as conn:
        is_new = rows.insert(conn, said, via="server", received_at=datetime.now(UTC))
    return {"taken": "new" if is_new else "before", "state": "stored"}


def _taken(row: spoken.AnnotationRow, *, is_new: bool) -> api.Taken:
    return api.Taken(
        annotation_id=row.annotation_id,
        taken="new" if is_new else "before",
        state="stored",
        status=row.status,
        reason=row.reason,
    )


def _json(message: Message, status: int = 200) -> Response:
    return Response(message.model_dump_json(), status, media_type="application/json")


def _refusal(
    status: int, code: str, text: str, annotation_id: UUID, reasons: list[api.Reason] | None = None
) -> Response:
    """Names the id: a phone takes it for nobody else's answer."""
    return JSONResponse(
        {
            "annotation_id": str(annotation_id),
            "error": {"code": code, "message": text},
            "reasons": [reason.model_dump() for reason in reasons or ()],
        },
        status,
    )
