"""What a device has to carry."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVERS_ONLY = ("fastapi", "psycopg", "sklearn", "skl2onnx", "onnx", "dbos")
HEAVY = ("numba", "onnxruntime", "uvicorn")


def loaded_by(module: str) -> set[str]:
    program = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_the_agent_loads_nothing_of_the_servers() -> None:
    assert not loaded_by("edge_agent.agent") & set(SERVERS_ONLY)


def test_the_agents_commands_load_neither_kernels_nor_runtime() -> None:
    assert not loaded_by("edge_agent.cli") & {*SERVERS_ONLY, *HEAVY}


def test_the_edge_extra_names_nothing_of_the_servers() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {requirement.split(">")[0].split("[")[0].split("=")[0] for requirement in extras["edge"]}
    assert not names & {"fastapi", "psycopg", "scikit-learn", "skl2onnx", "onnx", "dbos", "pdm-loop"}


def test_constraints_are_exact_and_hold_no_address() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    assert all("==" in line and "://" not in line and " @ " not in line for line in pins)


def test_the_runtime_reports_to_nobody_and_keeps_nothing_in_a_home(tmp_path: Path) -> None:
    program = "from models.baseline import shipped; from models.scoring import Scorer; Scorer(shipped().bundle)"
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    for home in (str(tmp_path), "/proc/self"):  # one that could be written, and one that can not
        argv = [sys.executable, "-c", program]
        done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=ROOT, env=env | {"HOME": home})
        assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []
