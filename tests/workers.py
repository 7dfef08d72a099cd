"""How the tests are shared among the workers of pytest-xdist (`make test`).

They wait more than they work, so a few workers on few processors finish sooner. What is sensitive to time is one
worker's, and begins at once.
"""

from __future__ import annotations

from typing import Any

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class SystemTestsTogether(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return "system" if nodeid.startswith("tests/system/") else nodeid

    return SystemTestsTogether(config, log)
