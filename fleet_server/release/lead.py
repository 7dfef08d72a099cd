"""One server does a job at a time, however many are started: the lock of a PostgreSQL session."""

from __future__ import annotations

import logging

from fleet_server.store import runs
from fleet_server.store.pool import Connection, Pool, is_there

log = logging.getLogger(__name__)


class Lead:
    """The right to do one job. It is lost with the database's session, so ask each time before doing it."""

    def __init__(self, pool: Pool, job: str) -> None:
        self._pool, self._job = pool, job
        self._session: Connection | None = None

    def held(self) -> bool:
        """True: this process may do the job now. Raises what the database raises."""
        if self._session is not None:
            try:
                is_there(self._session)
                self._session.commit()
                return True
            except Exception:
                self.give_up()
                raise
        session = self._pool.getconn()
        try:
            taken = runs.try_lock(session, self._job)
            session.commit()
        except Exception:
            self._pool.putconn(session)
            raise
        if taken:
            self._session = session
            log.info("leads", extra={"job": self._job})
        else:
            self._pool.putconn(session)
        return taken

    def give_up(self) -> None:
        """Let another server do it."""
        if self._session is not None:
            session, self._session = self._session, None
            try:
                runs.unlock(session, self._job)
                session.commit()
            except Exception:
                session.close()  # its locks end with the session
            self._pool.putconn(session)
