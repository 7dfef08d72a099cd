"""A new bundle, looked at in a process that may die of it: `python -m models.examiner < bundle`.

Its graph, then its golden scores, with limits on memory, processor time and files that this process sets for itself
before it reads a byte. It prints one line of JSON and ends with 0; whatever else it does is an answer too.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any, Final

from models.bundle import graph
from models.bundle.files import MAX_BUNDLE, BadBundle, unpack
from models.contract.release import Cause
from models.scoring import Scorer

MEMORY: Final = 256 * 2**20  # bytes of address space on top of what the libraries have taken
CPU_S: Final = 20


def main() -> int:
    _limit()
    data = sys.stdin.buffer.read(MAX_BUNDLE + 1)
    cause = Cause.UNUSABLE
    try:
        bundle = unpack(data)
        cause = Cause.GRAPH
        graph.check(bundle)
        cause = Cause.FIT
        scorer = Scorer(bundle)
        cause = Cause.CANARY
        scorer.check_canary()
    except BadBundle as exc:
        answer: dict[str, Any] = {"cause": cause, "reason": str(exc)}
    except MemoryError:
        answer = {"cause": cause, "reason": f"it needs more than {MEMORY >> 20} MiB"}
    except Exception as exc:  # onnxruntime's errors have no common base
        answer = {"cause": cause, "reason": f"it does not score: {exc}"[:300]}
    else:
        used = resource.getrusage(resource.RUSAGE_SELF)
        answer = {"cause": None, "cpu_s": used.ru_utime + used.ru_stime}
    print(json.dumps(answer), flush=True)
    return 0


def _limit() -> None:
    """Politely last in line for the processor, first in line for the kernel's memory killer."""
    used_s = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = int(used_s.ru_utime + used_s.ru_stime) + CPU_S
    limits = {
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    with contextlib.suppress(OSError):  # only where the kernel says how much there is already
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limits[resource.RLIMIT_AS] = pages * resource.getpagesize() + MEMORY
    for name, limit in limits.items():
        hard = resource.getrlimit(name)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(name, (limit, limit))
    os.nice(10)
    with contextlib.suppress(OSError):  # not everywhere allowed
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


if __name__ == "__main__":
    sys.exit(main())
