"""A pump with a bearing that wears: seeded, faults on a schedule, truth known.

Three signals at one rate: vibration in two directions (m/s^2) and motor current (A). What may happen to it:

- "bearing": impulses at the outer-race ball-pass frequency (BPFO = n/2 * f * (1 - d/D cos a), here 3.58 shaft orders)
  ring a structural resonance, harder as wear goes on, until the repair;
- "imbalance": the first shaft order grows;
- "high_load": the valve is opened further. Current and second order rise, nothing is wrong: a false alarm in waiting.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from models.contract.signals import Signal

Kind = Literal["bearing", "imbalance", "high_load"]
Doing = Literal["off", "start_up", "low", "high"]
FAULTS: Final[tuple[Kind, ...]] = ("bearing", "imbalance")
RATE_HZ: Final = 1024.0
SIGNALS: Final = (
    Signal(name="vib_x", unit="m/s2", low=-200, high=200),
    Signal(name="vib_y", unit="m/s2", low=-200, high=200),
    Signal(name="current", unit="A", low=-1, high=100),
)
SHAFT_HZ: Final = 24.6
BPFO_ORDER: Final = 3.58
RESONANCE_HZ: Final = 310.0
RING_S: Final = 0.004  # time in which the ringing falls to 1/e


@dataclass(frozen=True)
class Episode:
    """Something that happens to the machine from `start` to `end`, in seconds of its running time."""

    kind: Kind
    start: float
    end: float

    def strength(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        """0 outside; inside, wear rises over the first half and stays; a load is there at once."""
        inside = (t >= self.start) & (t < self.end)
        if self.kind == "high_load":
            return inside.astype(float)
        ramp = np.clip((t - self.start) / (0.5 * (self.end - self.start)), 0.15, 1.0)
        return np.where(inside, ramp, 0.0)


@dataclass(frozen=True)
class Plan:
    """A life in episodes: quiet at first, then by turns a high load and a fault, with quiet between."""

    seed: int
    quiet_s: float = 20.0
    episode_s: float = 5.0
    pause_s: float = 3.0
    faults: tuple[Kind, ...] = ("bearing",)

    def episodes(self) -> Iterator[Episode]:
        """Without end, in order of time, never two at once."""
        random = np.random.default_rng((self.seed, 1))
        t = self.quiet_s + random.uniform(0, self.pause_s)
        fault_next = bool(random.integers(2))
        while True:
            kind: Kind = str(random.choice(self.faults)) if fault_next else "high_load"  # type: ignore[assignment]
            length = self.episode_s * random.uniform(0.9, 1.2)
            yield Episode(kind, t, t + length)
            t += length + self.pause_s * random.uniform(0.8, 1.4)
            fault_next = not fault_next


class Pump:
    """Makes its samples block by block; the same seed and plan give the same samples."""

    def __init__(self, plan: Plan, rate_hz: float = RATE_HZ) -> None:
        self._random = np.random.default_rng((plan.seed, 2))
        self._rate = self.rate_hz = rate_hz
        self._coming = plan.episodes()
        self._episodes = [next(self._coming)]
        self._n = 0
        self.calm_s = 0.0  # spent in calm: by so much everything that happens is later than planned
        self._phase = self._random.uniform(0, 2 * np.pi, 3)
        self._size = self._random.uniform(0.9, 1.1, 3)  # no two pumps are alike
        self._next_hit = 0.0
        self._tail: NDArray[np.float64] = np.zeros(int(12 * RING_S * rate_hz))

    def block(self, n: int, calm: bool = False) -> tuple[NDArray[np.float32], list[Episode]]:
        """The next `n` samples and the episodes that touch them. In calm nothing happens: the plan waits.

        Returns:
            float32[3, n] in the order of SIGNALS, and the episodes, in seconds of the plan.
        """
        t = (self._n + np.arange(n)) / self._rate
        self._n += n
        if calm:
            self.calm_s += n / self._rate
        planned = t - self.calm_s
        while self._episodes[-1].start <= planned[-1]:
            self._episodes.append(next(self._coming))
        now = [e for e in self._episodes if e.start <= planned[-1] and e.end > planned[0] and not calm]
        self._episodes = [e for e in self._episodes if e.end > planned[0]]
        wear, imbalance, load = (
            sum((e.strength(planned) for e in now if e.kind == kind), np.zeros(n))
            for kind in ("bearing", "imbalance", "high_load")
        )
        angle = 2 * np.pi * SHAFT_HZ * t
        first, second, noise = 1.0 + 2.5 * imbalance, 0.45 * (1.0 + 1.2 * load), 0.35 * (1.0 + 0.3 * load)
        ringing = self._ring(wear, n)
        size, phase = self._size, self._phase
        x = size[0] * (first * np.sin(angle + phase[0]) + second * np.sin(2 * angle + phase[1])) + ringing
        y = size[1] * (0.8 * first * np.cos(angle + phase[0]) + 0.8 * second * np.sin(2 * angle)) + 0.6 * ringing
        current = size[2] * 12.0 * (1 + 0.12 * load) + 0.25 * np.sin(2 * np.pi * 50.0 * t + phase[2])
        clean = np.stack([x, y, current])
        rough = np.stack([noise, noise, np.full(n, 0.08)]) * self._random.standard_normal((3, n))
        return (clean + rough).astype(np.float32), now

    def _ring(self, wear: NDArray[np.float64], n: int) -> NDArray[np.float64]:
        out = np.zeros(n + self._tail.size)
        out[: self._tail.size] = self._tail
        pulse_t = np.arange(self._tail.size) / self._rate
        pulse = np.exp(-pulse_t / RING_S) * np.sin(2 * np.pi * RESONANCE_HZ * pulse_t)
        while self._next_hit < n:
            at = int(self._next_hit)
            if wear[at] > 0:
                out[at : at + pulse.size] += 7.0 * wear[at] * self._random.uniform(0.8, 1.2) * pulse
            # Balls slip by a percent or so: without it the line in the spectrum would be unreal.
            self._next_hit += self._rate / (BPFO_ORDER * SHAFT_HZ) * self._random.normal(1.0, 0.012)
        self._next_hit -= n
        self._tail = out[n:].copy()
        return out[:n]


class Shift:
    """A pump that is switched on and off and works at two loads."""

    def __init__(self, pump: Pump, seed: int = 0) -> None:
        self._pump, self._random = pump, np.random.default_rng((seed, 3))

    def block(self, doing: Doing, n: int) -> NDArray[np.float32]:
        """The next n samples, float32[3, n]. A start-up is one whole: the shaft runs up through a resonance, and the
        current is five times as high at first."""
        samples = self._pump.block(n)[0].astype(np.float64)
        if doing == "off":
            samples = np.array([[0.02], [0.02], [0.03]]) * self._random.standard_normal((3, n))
        elif doing == "start_up":
            t = np.linspace(0.0, 1.0, n)
            angle = 2 * np.pi * SHAFT_HZ * (n / self._pump.rate_hz) * t**2 / 2
            shaking = 6.0 * np.exp(-(((t - 0.6) / 0.12) ** 2)) * np.sin(angle)
            samples[:2] = t * samples[:2] + shaking
            samples[2] *= 1.0 + 4.0 * np.exp(-6.0 * t)
        elif doing == "high":
            samples *= np.array([[1.5], [1.4], [1.6]])
        return samples.astype(np.float32)
