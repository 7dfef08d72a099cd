"""Photos and sounds: pieces until they are whole, then one row by hash."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.rows import class_row, scalar_row

from models.contract.people import AttachmentPiece


@dataclass(frozen=True)
class AttachmentRow:
    """Without its bytes."""

    sha256: str
    media_type: str
    size: int
    via: str
    received_at: datetime


def lock(conn: Connection[Any], sha256: str) -> None:
    """One at a time puts it together: until the end of the transaction."""
    conn.execute("SELECT pg_advisory_xact_lock(hashtextextended('attachment ' || %s, 0))", (sha256,))


def get(conn: Connection[Any], sha256: str) -> AttachmentRow | None:
    return (
        conn.cursor(row_factory=class_row(AttachmentRow))
        .execute("SELECT sha256, media_type, size, via, received_at FROM attachment WHERE sha256 = %s", (sha256,))
        .fetchone()
    )


def data(conn: Connection[Any], sha256: str) -> bytes:
    """Empty: it is not here."""
    found: bytes | None = (
        conn.cursor(row_factory=scalar_row)
        .execute("SELECT data FROM attachment WHERE sha256 = %s", (sha256,))
        .fetchone()
    )
    return found or b""


def is_of(conn: Connection[Any], sha256: str, person: str, via: str) -> bool:
    """Whether this person sent it, or named it in an annotation of theirs."""
    return (
        conn.execute(
            """
            SELECT FROM attachment WHERE sha256 = %(sha256)s AND via = %(via)s
            UNION ALL SELECT FROM annotation WHERE annotator = %(person)s
                AND body -> 'attachments' @> jsonb_build_array(jsonb_build_object('sha256', %(sha256)s::text))
            LIMIT 1
            """,
            {"sha256": sha256, "person": person, "via": via},
        ).fetchone()
        is not None
    )


def insert_piece(conn: Connection[Any], piece: AttachmentPiece, *, via: str, at: datetime) -> None:
    """A piece that comes again changes nothing."""
    conn.execute(
        """
        INSERT INTO attachment_piece (sha256, via, at_byte, size, media_type, data, received_at)
        VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
        """,
        (piece.sha256, via, piece.offset, piece.size, piece.media_type, piece.data, at),
    )


def pieces(conn: Connection[Any], sha256: str, via: str) -> list[tuple[int, int]]:
    """(at, length) of each that is here, in order."""
    return conn.execute(
        "SELECT at_byte, length(data) FROM attachment_piece WHERE sha256 = %s AND via = %s ORDER BY at_byte",
        (sha256, via),
    ).fetchall()


def put_together(conn: Connection[Any], sha256: str, via: str) -> bytes:
    found: bytes | None = (
        conn.cursor(row_factory=scalar_row)
        .execute(
            "SELECT string_agg(data, ''::bytea ORDER BY at_byte) FROM attachment_piece WHERE sha256 = %s AND via = %s",
            (sha256, via),
        )
        .fetchone()
    )
    return found or b""


def drop_pieces(conn: Connection[Any], sha256: str, via: str | None = None) -> None:
    """Of one sender, or of all."""
    conn.execute(
        "DELETE FROM attachment_piece WHERE sha256 = %(sha256)s AND (%(via)s::text IS NULL OR via = %(via)s)",
        {"sha256": sha256, "via": via},
    )


def insert(conn: Connection[Any], row: AttachmentRow, content: bytes) -> None:
    conn.execute(
        """
        INSERT INTO attachment (sha256, media_type, size, data, via, received_at) VALUES (%s, %s, %s, %s, %s, %s)
        ON CONFLICT DO NOTHING
        """,
        (row.sha256, row.media_type, row.size, content, row.via, row.received_at),
    )


def waiting_bytes(conn: Connection[Any], via: str) -> int:
    """Of pieces from one sender that are no whole yet."""
    total: int | None = (
        conn.cursor(row_factory=scalar_row)
        .execute("SELECT sum(length(data))::bigint FROM attachment_piece WHERE via = %s", (via,))
        .fetchone()
    )
    return total or 0


def drop_old_pieces(conn: Connection[Any], before: datetime) -> int:
    """Of uploads that nobody went on with."""
    return conn.execute(
        """
        DELETE FROM attachment_piece WHERE (sha256, via) IN (
            SELECT sha256, via FROM attachment_piece GROUP BY sha256, via HAVING max(received_at) < %s)
        """,
        (before,),
    ).rowcount


def drop_unnamed(conn: Connection[Any], before: datetime) -> list[str]:
    """Of whole ones that came before then and that no annotation names; their hashes."""
    return (
        conn.cursor(row_factory=scalar_row)
        .execute(
            """
            DELETE FROM attachment a WHERE received_at < %s AND NOT EXISTS (
                SELECT FROM annotation, jsonb_array_elements(body -> 'attachments') AS named
                WHERE named ->> 'sha256' = a.sha256)
            RETURNING sha256
            """,
            (before,),
        )
        .fetchall()
    )
