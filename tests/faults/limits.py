"""Too little of something: room on a disk, a disk that takes writes, memory, file descriptors, a processor."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import needs
from tests.faults.power import Disk

CGROUP = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[Path]:
    """A tmpfs of that size."""
    needs.root("mount", "umount")
    folder.mkdir(parents=True)
    needs.or_skip("no tmpfs", ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)])
    try:
        yield folder
    finally:
        needs.run("umount", "-l", str(folder))


def fill(folder: Path, leave: int = 0) -> Path:
    """Another program takes the rest of the disk, all but `leave` bytes; the file that does it."""
    filler = folder / "filler"
    free = os.statvfs(folder)
    size = free.f_bavail * free.f_frsize - leave
    with filler.open("ab") as file, contextlib.suppress(OSError):
        os.posix_fallocate(file.fileno(), file.tell(), max(size, 1))
    return filler


def make_read_only(disk: Disk) -> None:
    """As the kernel does after an error on the disk: open files stay open, and no write succeeds any more. The disk
    must be ext4, mounted with errors=remount-ro."""
    trigger = Path(f"/sys/fs/ext4/{disk.device}/trigger_fs_error")
    if not trigger.exists():
        pytest.skip("this kernel can not fail an ext4 on demand")
    trigger.write_text("fault bench")


def set_descriptors(pid: int, number: int) -> int:
    """So many file descriptors and no more; what the limit was."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (number, hard))
    return soft


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process group does not get the processor meanwhile."""
    os.killpg(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(pid, signal.SIGCONT)


@contextlib.contextmanager
def memory(mib: int) -> Iterator[list[str]]:
    """What to put before a command line, so that the kernel kills it above so much memory (cgroup v1)."""
    needs.root()
    group = CGROUP / "memory" / f"pdm-{os.getpid()}-{time.monotonic_ns()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(mib * 2**20))
    except OSError as exc:
        pytest.skip(f"no memory groups (cgroup v1) here: {exc}")
    try:
        yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"]
    finally:
        _remove(group)


@contextlib.contextmanager
def slow(disk: Disk, writes_per_s: int) -> Iterator[list[str]]:
    """What to put before a command line, so that the disk takes only so many of its writes a second (cgroup v1)."""
    needs.root()
    group = CGROUP / "blkio" / f"pdm-{os.getpid()}-{time.monotonic_ns()}"
    number = os.stat(disk.folder).st_dev
    try:
        group.mkdir()
        rule = f"{os.major(number)}:{os.minor(number)} {writes_per_s}"
        (group / "blkio.throttle.write_iops_device").write_text(rule)
    except OSError as exc:
        pytest.skip(f"writes can not be throttled (cgroup v1) here: {exc}")
    try:
        yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"]
    finally:
        _remove(group)


def _remove(group: Path) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.05)
