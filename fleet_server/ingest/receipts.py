"""Signed receipts for what a batch committed: one a stream, whatever the number of messages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from fleet_server.ingest.batch import Marks
from fleet_server.store.ledger import Key, StreamKey
from models.bundle.signing import SigningKey
from models.contract import topics
from models.contract.base import SeqRange, Stream
from models.contract.codec import dump
from models.contract.messages import Receipt, ReceiptNote


def receipts(keys: Iterable[Key], marks: Marks, signer: SigningKey) -> Iterator[tuple[str, bytes]]:
    """Topic and payload of each. A resend is confirmed again: the first receipt may have been lost."""
    seqs: dict[StreamKey, set[int]] = defaultdict(set)
    for key in keys:
        seqs[StreamKey(*key[:3])].add(key.seq)
    for stream, numbers in seqs.items():
        up_to = marks[stream]
        receipt = Receipt(
            device=stream.device,
            epoch=stream.epoch,
            stream=Stream(stream.stream),
            up_to=up_to,
            ranges=ranges(number for number in numbers if number > up_to),
            packs=True,
        )
        yield topics.down(stream.device, "receipt"), dump(ReceiptNote(receipt=signer.sign(receipt)))


def ranges(numbers: Iterable[int]) -> tuple[SeqRange, ...]:
    """First and last of each run of neighbours, in order."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return tuple((low, high) for low, high in found)
