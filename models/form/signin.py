"""Signing in on a phone: a code once, then a session bound to the phone, with a PIN as its lock. The rules, the same on
agent and server; where people, codes and sessions are kept is a Store's.

1. A code is for one person, once, until it expires; only its hash is kept. Who tries many is made to wait.
2. A session's token is made here and never taken from a request; only its hash is kept. It ends after some weeks, when
   it is revoked, when the person signs out, and after PIN_TRIES wrong PINs.
3. A session with a PIN locks when nobody has looked for a while. What waits on the phone is taken from a locked one;
   nothing is shown to it.
4. A phone has a name of its own (a second cookie). What a colleague who once signed in on it has written may be sent by
   whoever is signed in now: the record keeps its author, and who sent it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, NamedTuple, Protocol, get_args

from models.form.api import Person
from models.form.api import Role as Role

ALPHABET: Final = "23456789ABCDEFGHJKMNPQRSTVWXYZ"  # none that looks like another
CODE_LENGTH: Final = 12  # 58 bits
CODE_LASTS: Final = timedelta(minutes=15)
PIN: Final = re.compile(r"^\d{4,12}$", re.ASCII)
PIN_TRIES: Final = 5
IDLE: Final = timedelta(minutes=15)
SEEN_EVERY: Final = timedelta(seconds=30)  # so often a look is written down
TRIES: Final = 10  # wrong codes from one address in TRIES_IN
TRIES_OF_ALL: Final = 300
TRIES_IN: Final = timedelta(minutes=10)
ROLES: Final[tuple[Role, ...]] = get_args(Role)
OPEN_TO_ALL: Final = (
    "{host} is reached from the network, and nobody has to sign in: "
    'set sign_in = "enrolled" in [form] and give people codes with `{program} enrol`, or listen on 127.0.0.1'
)


@dataclass(frozen=True)
class PersonRow:
    """`person` is the pseudonym; the name stands here and nowhere else."""

    person: str
    name: str
    role: Role


@dataclass(frozen=True)
class SessionRow:
    """Hashes of token and phone; `pin` is a password hash, `locked` holds until the right PIN came."""

    token: str
    phone: str
    person: str
    made_at: datetime
    expires_at: datetime
    seen_at: datetime
    pin: str | None = None
    locked: bool = False


class Store(Protocol):
    """Where people, codes and sessions are kept. Each call is committed when it returns."""

    def person(self, person: str) -> PersonRow | None: ...

    def take_code(self, code: str, now: datetime) -> str | None:
        """Whose code with this hash it is, if it holds; it is used up with that."""

    def add_session(self, row: SessionRow) -> None: ...

    def set_seen(self, token: str, at: datetime) -> None: ...

    def set_locked(self, token: str) -> None: ...

    def set_unlocked(self, token: str, at: datetime) -> None:
        """With no wrong PIN counted."""

    def set_pin(self, token: str, pin: str) -> None: ...

    def session(self, token: str) -> SessionRow | None: ...

    def drop_session(self, token: str) -> None: ...

    def try_pin(self, token: str) -> int:
        """Count an attempt before it is looked at, so that many at once count as many; how many there were."""

    def people_of(self, phone: str) -> frozenset[str]:
        """Who ever signed in on it."""

    def tries(self, address: str, since: datetime) -> tuple[int, int]:
        """Wrong codes since then: from this address, from anywhere."""

    def note_try(self, address: str, at: datetime) -> None: ...


class Refused(Exception):
    """Not signed in, or not allowed. `status` and `code` are those of docs/form-api.md."""

    def __init__(self, status: int, code: str, text: str, **facts: int) -> None:
        super().__init__(text)
        self.status, self.code, self.facts = status, code, facts


class Cookies(NamedTuple):
    """To be set: session token and phone name."""

    session: str
    phone: str


class SignIn:
    """`lasts`: a session, and with it its cookie. `hash_pin` and `check_pin` are slow on purpose."""

    def __init__(
        self,
        store: Store,
        lasts: timedelta,
        hash_pin: Callable[[str], str],
        check_pin: Callable[[str, str], bool],
    ) -> None:
        self._store, self.lasts = store, lasts
        self._hash_pin, self._check_pin = hash_pin, check_pin

    def enrol(self, code: str, now: datetime, *, address: str, old_token: str, phone: str) -> tuple[Person, Cookies]:
        """A session for a code. Raises Refused."""
        here, everywhere = self._store.tries(address, now - TRIES_IN)
        if here >= TRIES or everywhere >= TRIES_OF_ALL:
            raise Refused(429, "slow_down", "too many wrong codes; wait", retry_after=int(TRIES_IN.total_seconds()))
        person = self._store.take_code(hashed(plain(code)), now)
        row = self._store.person(person) if person else None
        if row is None:
            self._store.note_try(address, now)
            raise Refused(403, "bad_code", "this code is wrong, used or too old; ask for a new one")
        if old_token:
            self._store.drop_session(hashed(old_token))
        cookies = Cookies(secrets.token_urlsafe(32), phone if len(phone) >= 32 else secrets.token_urlsafe(32))
        session = SessionRow(
            hashed(cookies.session), hashed(cookies.phone), row.person, now, now + self.lasts, seen_at=now
        )
        self._store.add_session(session)
        return shown(row, session), cookies

    def visitor(self, token: str, now: datetime, *, looks: bool) -> tuple[Person, SessionRow] | None:
        """Who holds this token; None: nobody. `looks`: the person looks at the form, which keeps it from locking."""
        session = self._store.session(hashed(token)) if token else None
        if session is None or now >= session.expires_at:
            return None
        row = self._store.person(session.person)
        if row is None:
            return None
        if session.pin and not session.locked and now - session.seen_at > IDLE:
            self._store.set_locked(session.token)
            session = replace(session, locked=True)
        elif looks and not session.locked and now - session.seen_at > SEEN_EVERY:
            self._store.set_seen(session.token, now)
        return shown(row, session), session

    def unlock(self, session: SessionRow, pin: str, now: datetime) -> None:
        """Raises Refused; after PIN_TRIES wrong ones the session is over."""
        if session.pin is None:
            return
        tried = self._store.try_pin(session.token)
        if tried > PIN_TRIES:
            self._store.drop_session(session.token)
            raise Refused(401, "signin", "too many wrong PINs: sign in again with a new code")
        if not PIN.match(pin) or not self._check_pin(session.pin, pin):
            if tried == PIN_TRIES:
                self._store.drop_session(session.token)
                raise Refused(401, "signin", "too many wrong PINs: sign in again with a new code")
            raise Refused(403, "wrong_pin", "this is not the PIN", left=PIN_TRIES - tried)
        self._store.set_unlocked(session.token, now)

    def set_pin(self, session: SessionRow, pin: str, old: str | None, now: datetime) -> None:
        """Raises Refused."""
        if session.pin is not None:
            self.unlock(session, old or "", now)
        if not PIN.match(pin):
            raise Refused(422, "bad_pin", "a PIN has 4 to 12 digits")
        self._store.set_pin(session.token, self._hash_pin(pin))

    def lock(self, session: SessionRow) -> None:
        if session.pin:
            self._store.set_locked(session.token)

    def sign_out(self, session: SessionRow) -> None:
        self._store.drop_session(session.token)

    def may_send_for(self, session: SessionRow, author: str) -> bool:
        """Whether a record by this author may come from this phone."""
        return author == session.person or author in self._store.people_of(session.phone)


def shown(row: PersonRow, session: SessionRow) -> Person:
    return Person(
        person=row.person,
        name=row.name,
        role=row.role,
        expires_at=session.expires_at,
        pin=session.pin is not None,
        locked=session.locked,
    )


def new_person() -> str:
    """A pseudonym."""
    return f"p-{secrets.token_hex(4)}"


def new_code() -> str:
    """In groups, for reading aloud."""
    letters = "".join(secrets.choice(ALPHABET) for _ in range(CODE_LENGTH))
    return "-".join(letters[i : i + 4] for i in range(0, CODE_LENGTH, 4))


def plain(code: str) -> str:
    """As it was made, however it was typed."""
    return "".join(c for c in code.upper() if c in ALPHABET)


def hashed(secret: str) -> str:
    """Of codes and tokens, which are long and random: one round is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


def cookie_names(host: str) -> Cookies:
    """Of each host its own: cookies do not know ports, and two agents may share a machine."""
    mark = hashlib.sha256(host.encode()).hexdigest()[:8]
    return Cookies(f"pdm_session_{mark}", f"pdm_phone_{mark}")


def reaches(role: Role, needed: Role) -> bool:
    return ROLES.index(role) >= ROLES.index(needed)


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine reach it."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def is_program_of_ours(headers: Mapping[str, str]) -> bool:
    """True for what only our own page's script can send: no other site's page, and no plain HTML form, can set this
    header without asking first."""
    return headers.get("x-pdm-form") == "1" and headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")
