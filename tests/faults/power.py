"""A power cut: a file system in a loop file that forgets, from one moment to the next, all that was not synced.

FS_IOC_SHUTDOWN without a flush of the log is what file systems are tested with themselves (xfstests): nothing reaches
the disk any more, and after mount only what was durable is there.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from tests.faults import needs

SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN, _IOR('X', 125, __u32)
NO_LOG_FLUSH = 2
Kind = Literal["ext4", "xfs"]
SIZE = {"ext4": 256 * 2**20, "xfs": 320 * 2**20}  # xfs takes no less than 300 MiB; the file is sparse


class Disk:
    """A mounted file system of one's own. A context manager.

    Attributes:
        folder: where it is mounted.
    """

    def __init__(self, home: Path, kind: Kind = "ext4", *, size: int | None = None, options: str = "") -> None:
        needs.root(f"mkfs.{kind}", "mount", "umount")
        self.folder, self._image, self._options = home / kind, home / f"{kind}.img", options
        self.folder.mkdir(parents=True)
        with self._image.open("wb") as file:
            file.truncate(size or SIZE[kind])
        quiet = ["-q", "-f"] if kind == "xfs" else ["-q", "-F"]
        needs.run(f"mkfs.{kind}", *quiet, str(self._image))

    def __enter__(self) -> Self:
        """A block device of its own each time: while any other process's mount namespace holds the file system that was
        cut, the old one would be found again, and it stays dead."""
        needs.or_skip("no loop devices", ["losetup", "--find"])
        self._loop = needs.run("losetup", "--find", "--show", str(self._image)).strip()
        options = ["-o", self._options] if self._options else []
        try:
            needs.or_skip("no loop mounts", ["mount", *options, self._loop, str(self.folder)])
        finally:
            needs.run("losetup", "--detach", self._loop)  # in fact once nobody uses it any more
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if os.path.ismount(self.folder):
            self._unmount()

    def cut(self) -> None:
        """The power is off: what was not synced is gone, and every access fails until `restore`."""
        fd = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def restore(self) -> None:
        """The power is back: mounted again. Whoever had files open there must have ended."""
        self._unmount()
        self.__enter__()

    @property
    def device(self) -> str:
        """The block device's name, such as loop3."""
        number = os.stat(self.folder).st_dev
        return Path(os.readlink(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")).name

    def _unmount(self) -> None:
        deadline = time.monotonic() + 10
        while not needs.works("umount", str(self.folder)):
            if time.monotonic() > deadline:
                needs.run("umount", "-l", str(self.folder))
                raise RuntimeError(f"somebody still uses {self.folder}")
            time.sleep(0.05)
