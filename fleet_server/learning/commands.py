"""`fleet-server train`: from the fleet's labels through the server's workflow, or from files with nothing running."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from fleet_server import config as settings
from fleet_server.config import Config
from fleet_server.errors import BadConfig, NotReady
from fleet_server.learning import dataset, files, steps
from fleet_server.learning.workflow import Workflows, request
from fleet_server.release.lead import Lead
from fleet_server.store import runs
from fleet_server.store.pool import connect, open_pool
from fleet_server.store.runs import RunRow

POLL_S = 0.2


def add_commands(commands: Any) -> None:
    """Add `train` to the program's parser."""
    parser = commands.add_parser("train", help=train.__doc__, description=train.__doc__)
    parser.add_argument("--config", type=Path, help="the server's configuration: train on what the fleet has sent")
    parser.add_argument("--files", type=Path, metavar="TOML", help="train on recordings; see docs/train.md")
    parser.add_argument("--out", type=Path, help="with --files: where the bundle goes")
    parser.add_argument("--version", type=int, help="with --files: instead of the one in the file")
    parser.add_argument("--model", help="the model line; the configuration's if left out")
    parser.add_argument("--cause", default="asked for by an operator", help="why, for the record")
    parser.add_argument(
        "--wait", action="store_true", help="until it has ended; exit code 1 if no candidate came of it"
    )
    parser.add_argument("--export-dataset", type=Path, metavar="NPZ", help="only write what would be trained on")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=train)


def train(args: argparse.Namespace) -> int:
    """Make a new version from labels, or from files."""
    if (args.config is None) == (args.files is None):
        raise BadConfig("say either --config (the fleet's data) or --files (recordings)")
    if args.files is not None:
        return _train_files(args)
    config = settings.load(args.config)
    return _export(args, config) if args.export_dataset else _train_fleet(args, config)


def _train_files(args: argparse.Namespace) -> int:
    if args.out is None:
        raise BadConfig("--files needs --out: where the bundle goes")
    result = files.train(args.files, args.version)
    args.out.write_bytes(result.bundle.data)
    print(json.dumps(result.summary) if args.json else f"{files.as_text(result.summary)}\nwritten to {args.out}")
    return 0


def _export(args: argparse.Namespace, config: Config) -> int:
    with connect(config.database) as conn:
        data = steps.freeze(conn, args.model or config.retrain.model)
    args.export_dataset.write_bytes(dataset.dump(data))
    view = {"sha256": data.sha256, "file": str(args.export_dataset), **data.summary}
    print(json.dumps(view) if args.json else "\n".join(f"{key}: {value}" for key, value in view.items()))
    return 0


def _train_fleet(args: argparse.Namespace, config: Config) -> int:
    model = args.model or config.retrain.model
    pool = open_pool(config.database)
    try:
        with pool.connection() as conn:
            run_id = request(conn, model, args.cause)
        lead = Lead(pool, "learning")
        if lead.held():  # no server is running: the work is done here
            try:
                workflows = Workflows(config, pool)
                try:
                    workflows.start(run_id)
                    workflows.wait(run_id)
                finally:
                    workflows.close()
            finally:
                lead.give_up()
        while True:
            with pool.connection() as conn:
                run = runs.get(conn, run_id)
            if run is None:
                raise NotReady(f"training run {run_id} has vanished")
            if run.ended_at is not None or not args.wait:
                break
            time.sleep(POLL_S)
    finally:
        pool.close()
    return _report(args, run)


def _report(args: argparse.Namespace, run: RunRow) -> int:
    view = {key: value for key, value in vars(run).items() if value is not None}
    if args.json:
        print(json.dumps(view, default=str))
    else:
        version = f", version {run.version}" if run.version else ""
        print(f"{run.run_id}: {run.state}{version}. {run.reason or run.cause}")
    return 1 if run.ended_at is not None and run.state != "candidate" else 0
