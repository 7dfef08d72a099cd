"""TLS on a device whose clock is dead: no certificate is valid in 1970, and without a connection nothing gets better.

When a handshake failed because of dates alone, and this clock is known to be wrong, the next one is made without
looking at dates; chain and name are verified as ever. One such handshake an hour, counted and reported.
"""

from __future__ import annotations

import logging
import math
import ssl
from collections import Counter
from typing import Any, Final

from edge_agent.clock import Clock

log = logging.getLogger(__name__)

NO_CHECK_TIME: Final = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, which Python's ssl has no name for
OF_DATES: Final = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
EVERY_S: Final = 3600.0


def bear_dead_clock(context: ssl.SSLContext, clock: Clock, counters: Counter[str]) -> ssl.SSLContext:
    """The same context, which from now on bears with this clock."""
    last = -math.inf

    class Socket(ssl.SSLSocket):
        def do_handshake(self, *args: Any, **kwargs: Any) -> None:
            nonlocal last
            without_dates = bool(context.verify_flags & NO_CHECK_TIME)  # as it was when this socket was made
            context.verify_flags &= ~NO_CHECK_TIME
            try:
                super().do_handshake(*args, **kwargs)
            except ssl.SSLCertVerificationError as exc:
                if exc.verify_code in OF_DATES and clock.doubtful and clock.monotonic() - last > EVERY_S:
                    last = clock.monotonic()
                    context.verify_flags |= NO_CHECK_TIME
                raise
            if without_dates:
                counters["tls_without_dates"] += 1
                log.error("connected without looking at certificates' dates", extra={"clock": clock.quality.value})

    context.sslsocket_class = Socket
    return context
