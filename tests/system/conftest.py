"""What the whole-process tests share: one device's keys, its agent, and the server's part in the promise."""

from __future__ import annotations

import base64
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_agent.annotate import Journal
from edge_agent.outbox import Outbox
from models.contract.base import Stream
from models.contract.codec import dump
from models.contract.messages import Chunk
from simulators.embedded.broker import Broker
from tests.builders import Fleet, an_annotation
from tests.faults import ledger
from tests.faults.gateway import Gateway
from tests.receiver import Receiver
from tests.support import eventually

MakeGateway = Callable[..., Gateway]


@pytest.fixture
def fleet() -> Fleet:
    return Fleet(f"test.{uuid.uuid4().hex[:12]}")  # the broker is shared, and remembers


@pytest.fixture
def make_gateway(tmp_path: Path, fleet: Fleet) -> Iterator[MakeGateway]:
    """Makes the device's agent, which reports to a port; killed at the end. Keywords are Gateway's."""
    made: list[Gateway] = []

    def make(port: int, **changes: Any) -> Gateway:
        home, device = changes.pop("home", tmp_path / f"gateway{len(made)}"), changes.pop("fleet", fleet)
        made.append(Gateway(home, device, port, **changes))
        return made[-1]

    yield make
    for gateway in made:
        gateway.kill()


@pytest.fixture
def receiver(tmp_path: Path, broker: Broker, fleet: Fleet) -> Iterator[Receiver]:
    """On the broker that all tests share."""
    with Receiver(broker.port, tmp_path / "received.db", fleet) as receiver:
        yield receiver


@pytest.fixture
def own_receiver(tmp_path: Path, own_broker: Broker, fleet: Fleet) -> Iterator[Receiver]:
    """On a broker that this test may stop and kill."""
    with Receiver(own_broker.port, tmp_path / "received.db", fleet) as receiver:
        yield receiver


def settled(
    receiver: Receiver, gateway: Gateway, *streams: Stream, evicted: Iterable[Stream] = (), timeout: float = 60
) -> str:
    """The account, once all of these streams is delivered; without any named: what people wait for. And one fault gave
    one alarm, and nothing grew beyond its limits.

    Args:
        evicted: streams that may have given up some.
    """

    def closed() -> str:
        counts = gateway.counts()
        assert any(count.produced for count in counts.values()), "nothing was produced yet"
        ledger.assert_delivered(receiver, counts, *streams)
        return ledger.assert_closed(receiver, counts, evicted=evicted)

    account = eventually(closed, timeout=timeout)
    ledger.assert_once_and_in_order(receiver)
    ledger.assert_quiet(receiver, gateway.starts)
    gateway.assert_bounded()
    return account


def connected(gateway: Gateway, receiver: Receiver) -> None:
    """Raises AssertionError: nothing of this run of the agent has come through."""
    before = len(receiver.numbers(Stream.HEALTH))
    eventually(lambda: len(receiver.numbers(Stream.HEALTH)) > before, timeout=30, message=gateway.process.tail())


def say(gateway: Gateway) -> None:
    """Somebody annotates on the device."""
    outbox = Outbox(gateway.state / "outbox.db")
    assert Journal(outbox).take(an_annotation()) == "new"
    outbox.close()


@contextmanager
def serving(receiver: Receiver, bundles: Mapping[str, bytes], size: int = 1024) -> Iterator[list[int]]:
    """Answers requests for pieces of these meanwhile; the pieces sent."""
    served: list[int] = []
    done = threading.Event()

    def serve() -> None:
        answered = 0
        while not done.wait(0.05):
            for fetch in receiver.fetches[answered:]:
                answered += 1
                data = bundles[fetch.sha256]
                for i in fetch.indexes:
                    piece = base64.b64encode(data[i * size : (i + 1) * size])
                    chunk = Chunk(sha256=fetch.sha256, index=i, count=-(-len(data) // size), data=piece)
                    receiver.publish("chunk", dump(chunk))
                    served.append(i)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield served
    finally:
        done.set()
        thread.join()
