"""A bad link: one process in a network namespace, joined to this machine by a cable on which packets get lost.

nftables drops (this kernel need not have netem); tbf limits the rate. Names and rules go with the namespace.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from simulators.embedded.broker import Mosquitto
from tests.faults import needs

Way = Literal["out", "in"]  # as the process in the namespace sees it


class Link:
    """A context manager.

    Attributes:
        launch: put before a command line, runs it at the far end.
        host: this machine's address, as seen from there.
    """

    def __init__(self) -> None:
        needs.root("ip", "nft")
        dice = random.Random(os.urandom(8))
        number, net = dice.randrange(1 << 24), f"10.{dice.randrange(200, 250)}.{dice.randrange(250)}"
        self._name, self._near, self._far = f"pdm-{number:06x}", f"pn{number:06x}", f"pf{number:06x}"
        self.host, self._peer = f"{net}.1", f"{net}.2"
        self.launch = ["ip", "netns", "exec", self._name]

    def __enter__(self) -> Self:
        needs.or_skip("no network namespaces", ["ip", "netns", "add", self._name])
        try:
            needs.run("ip", "link", "add", self._near, "type", "veth", "peer", "name", self._far, "netns", self._name)
            needs.run("ip", "addr", "add", f"{self.host}/30", "dev", self._near)
            needs.run("ip", "link", "set", self._near, "up")
            self._inside("ip", "addr", "add", f"{self._peer}/30", "dev", self._far)
            self._inside("ip", "link", "set", self._far, "up")
            self._inside("ip", "link", "set", "lo", "up")
            self._inside("nft", "add", "table", "ip", "fault")
            for way, hook in (("in", "input"), ("out", "output")):
                chain = f"{{ type filter hook {hook} priority 0; policy accept; }}"
                self._inside("nft", "add", "chain", "ip", "fault", way, chain)
        except BaseException:
            needs.run("ip", "netns", "del", self._name, check=False)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        needs.run("ip", "netns", "del", self._name, check=False)
        needs.run("ip", "link", "del", self._near, check=False)

    def lose(self, share: float, *ways: Way) -> None:
        """From now on this share of the packets is lost, in both directions or in one. 1: a partition."""
        chance = ["numgen", "random", "mod", "1000", "<", f"{share * 1000:.0f}"] if share < 1 else []
        for way in ways or ("in", "out"):
            side = "iifname" if way == "in" else "oifname"
            self._inside("nft", "add", "rule", "ip", "fault", way, side, self._far, *chance, "counter", "drop")

    def heal(self) -> None:
        """No packet is lost any more, and the rate is free."""
        for way in ("in", "out"):
            self._inside("nft", "flush", "chain", "ip", "fault", way)
        self._inside("tc", "qdisc", "del", "dev", self._far, "root", check=False)
        needs.run("tc", "qdisc", "del", "dev", self._near, "root", check=False)

    def limit(self, kbit: int) -> None:
        """So much and no more, in each direction."""
        tbf = ["root", "tbf", "rate", f"{kbit}kbit", "burst", "8kb", "latency", "500ms"]
        needs.run("tc", "qdisc", "add", "dev", self._near, *tbf)
        self._inside("tc", "qdisc", "add", "dev", self._far, *tbf)

    def lost(self) -> int:
        """Packets dropped since the last `heal`."""
        words = self._inside("nft", "list", "table", "ip", "fault").split()
        return sum(int(words[i + 1]) for i, word in enumerate(words) if word == "packets")

    def _inside(self, *argv: str, check: bool = True) -> str:
        return needs.run(*self.launch, *argv, check=check)


class TunedBroker(Mosquitto):
    """A mosquitto with further lines in its configuration; they count from the next start."""

    def __init__(self, home: Path, *lines: str) -> None:
        super().__init__(home)
        self.lines = lines

    def _program(self) -> list[str]:
        argv = super()._program()
        config = self.home / "mosquitto.conf"
        config.write_text("\n".join([config.read_text(), *(line.format(port=self.port) for line in self.lines), ""]))
        return argv


def linked_broker(home: Path, link: Link) -> TunedBroker:
    """One that also listens at this machine's end of the link."""
    return TunedBroker(home, f"listener {{port}} {link.host}", "allow_anonymous true")
