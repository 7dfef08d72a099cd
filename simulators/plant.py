"""Runs pumps in real time: samples to a broker as JSON, truth to a file. `python -m simulators plant --help`."""

from __future__ import annotations

import argparse
import json
import signal
import threading
import time
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from models import lifeline
from simulators.machine import RATE_HZ, SIGNALS, Episode, Plan, Pump

BLOCK = 256  # samples: four messages a second


def topic(asset: str) -> str:
    return f"plant/{asset}/samples"


class Truth:
    """What really happened, one JSON line an episode, for those who may know: technicians and tests."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._seen: set[tuple[str, Episode]] = set()

    def add(self, asset: str, episode: Episode, started: float) -> None:
        if (asset, episode) not in self._seen:
            self._seen.add((asset, episode))
            line = {
                "asset": asset,
                "kind": episode.kind,
                "start": started + episode.start,
                "end": started + episode.end,
            }
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, required=True, help="the broker's port on 127.0.0.1")
    parser.add_argument("--assets", nargs="+", required=True, metavar="ID")
    parser.add_argument("--truth", type=Path, required=True, help="file to write what really happened to")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quiet", type=float, default=12.0, metavar="S", help="seconds before anything happens")
    parser.add_argument("--calm-until", type=Path, metavar="FILE", help="and not before this file is there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Pumps in real time until stopped."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    lifeline.watch()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="simulated-plant", protocol=mqtt.MQTTv5)
    client.max_queued_messages_set(200)  # samples nobody takes are lost, as on a real plant
    client.reconnect_delay_set(min_delay=1, max_delay=2)
    client.connect_async("127.0.0.1", args.port)
    client.loop_start()
    pumps = {asset: Pump(Plan(seed=args.seed * 100 + i, quiet_s=args.quiet)) for i, asset in enumerate(args.assets)}
    truth = Truth(args.truth)
    started, began = time.time(), time.monotonic()
    blocks = 0
    while not stop.wait(max(0.0, began + (blocks + 1) * BLOCK / RATE_HZ - time.monotonic())):
        calm = args.calm_until is not None and not args.calm_until.exists()
        for asset, pump in pumps.items():
            samples, episodes = pump.block(BLOCK, calm)
            for episode in episodes:
                truth.add(asset, episode, started + pump.calm_s)
            payload = {
                "t": round(started + blocks * BLOCK / RATE_HZ, 6),
                "rate_hz": RATE_HZ,
                "signals": {s.name: [round(float(v), 4) for v in row] for s, row in zip(SIGNALS, samples, strict=True)},
            }
            client.publish(topic(asset), json.dumps(payload, separators=(",", ":")), qos=0)
        blocks += 1
    client.disconnect()
    client.loop_stop()
    return 0
