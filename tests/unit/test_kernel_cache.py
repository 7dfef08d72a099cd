"""Kernels from the cache need no compiler in the process; without a cache there is one all the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import json, sys
import numpy as np
from models.features import _jit
{before}
from models.features.extract import extract
window = np.random.default_rng(0).standard_normal((2, 500)).astype(np.float32)
compiler = sorted({{"numba.np.linalg", "numba.typed.typeddict"}} & set(sys.modules))
print(json.dumps([extract(window).tolist(), compiler]))
"""


def features(cache: Path | None, before: str = "") -> tuple[list[float], list[str]]:
    """In a process with a cache of its own, or with everybody's."""
    env = os.environ | ({} if cache is None else {"NUMBA_CACHE_DIR": str(cache)})
    argv = [sys.executable, "-c", PROGRAM.format(before=before)]
    done = subprocess.run(argv, capture_output=True, check=True, env=env, timeout=120)
    values, compiler = json.loads(done.stdout)
    return values, compiler


def test_compiled_elsewhere_loaded_here_and_the_same_numbers(tmp_path: Path) -> None:
    first, compiler = features(tmp_path)  # the cache is empty: a process of its own fills it
    assert compiler == []
    assert features(tmp_path) == (first, [])
    # Nobody else can compile: this process does, and is whole.
    here, compiler = features(tmp_path / "none", "_jit._compile_elsewhere = lambda module: None")
    assert compiler
    assert here == first


def test_what_only_starting_needed_goes_back_and_nothing_else_changes() -> None:
    before = """
import onnxruntime
from edge_agent.footprint import shrink
from edge_agent.health import rss_bytes
from models.features.extract import warm_up
warm_up()
resident = rss_bytes()
given = shrink()
assert 0 < given // 2 < resident - rss_bytes(), (given, resident, rss_bytes())
"""
    usual, _ = features(None)
    shrunk, _ = features(None, before=before)
    assert shrunk == usual
