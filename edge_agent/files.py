"""Files that a power cut leaves whole."""

from __future__ import annotations

import os
from pathlib import Path

from models.crash_points import crash_point


def write_whole(path: Path, data: bytes) -> None:
    """The file holds all of this, or what it held before, whatever happens."""
    new = path.with_name(f"{path.name}.new")
    with new.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    crash_point("bundle.before_rename")
    new.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    crash_point("bundle.after_rename")
