"""How a code reaches its person: the words of `enrol`, of agent and server alike."""

from __future__ import annotations

import argparse
import io
from typing import Any

from models.form.signin import CODE_LASTS, ROLES, PersonRow


def add_invitation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="the person's name; it stays here, everything else knows the pseudonym")
    parser.add_argument("--person", help="a pseudonym that the person has elsewhere already: p-...")
    parser.add_argument("--role", choices=ROLES, default="technician", help="default: technician")
    parser.add_argument("--url", help="the address that phones use, with its name: https://gw7.plant.example")
    parser.add_argument("--json", action="store_true")


def invitation(who: PersonRow, code: str, url: str) -> dict[str, Any]:
    """The code is behind the #: what stands there is sent to nobody, so no log holds it."""
    link = f"{url.rstrip('/')}/form/enrol#{code}"
    return {"person": who.person, "name": who.name, "role": who.role, "code": code, "link": link}


def invitation_text(who: PersonRow, code: str, url: str) -> str:
    """With the link as a QR code to be scanned from the terminal."""
    import segno

    link = invitation(who, code, url)["link"]
    drawn = io.StringIO()
    segno.make(link, error="m").terminal(drawn, compact=True, border=2)
    minutes = int(CODE_LASTS.total_seconds() // 60)
    return f"{drawn.getvalue()}\n{link}\n{who.name} is {who.person}, {who.role}. Once, within {minutes} minutes: {code}"


def people_text(rows: list[dict[str, Any]]) -> str:
    """One line a person: pseudonym, role, sessions, name."""
    return "\n".join("{person}  {role:11}{sessions:>3}  {name}".format(**row) for row in rows)
