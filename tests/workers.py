"""How the tests are shared among the workers of pytest-xdist (`make test`).

They wait more than they work, so a few workers on few processors finish sooner. What is sensitive to time is one
worker's, the other tests of whole processes are another's, and both begin at once: so no more than two of them ever run
side by side.
"""

from __future__ import annotations

from typing import Any

import pytest

WAIT_FOR_CONDITIONS = ("crash_points", "demo", "harmful_release", "outages", "readme", "real_data", "shadow")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class SystemTestsTogether(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            if not nodeid.startswith("tests/system/"):
                return nodeid
            patient = any(nodeid.startswith(f"tests/system/test_{name}.py") for name in WAIT_FOR_CONDITIONS)
            return "whole processes, whenever" if patient else "whole processes, by the clock"

    return SystemTestsTogether(config, log)
