"""Start the agent as its systemd unit would, without systemd: another user without any right, and a file system that
can be read and, but for the folders that the unit names, not written."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from tests.faults import needs

UNIT = Path(__file__).parents[2] / "deploy/systemd/edge-agent.service"
NOBODY = 65534

SANDBOX = """
set -eu
mount --make-rprivate /
if [ -n "{hidden}" ]; then  # an interpreter below a folder that others may not enter: only it is shown there
  mount --bind "{interpreter}" /mnt
  mount -t tmpfs -o mode=755 tmpfs "{hidden}"
  mkdir -p "{interpreter}"
  mount --move /mnt "{interpreter}"
fi
for folder in {writable}; do mount --bind "$folder" "$folder"; done
mount -t tmpfs -o mode=1777 tmpfs /var/tmp
awk '{{print $5}}' /proc/self/mountinfo | sort -r | while read -r point; do
  case " {writable} /var/tmp /dev /dev/pts /proc " in *" $point "*) continue;; esac
  mount -o remount,bind,ro "$point" 2>/dev/null || true
done
exec setpriv --reuid {user} --regid {user} --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all \\
  env -i PATH=/usr/bin:/bin HOME=/nonexistent TMPDIR=/var/tmp {environment} "$@"
"""


def settings() -> dict[str, list[str]]:
    """The [Service] section: each key with its values, in order."""
    found: dict[str, list[str]] = {}
    section = UNIT.read_text().split("[Service]")[1].split("[Install]")[0]
    for line in section.splitlines():
        key, mark, value = line.partition("=")
        if mark and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def command(root: Path, agent: list[str]) -> list[str]:
    """What to run as root so that `agent` takes the place of the unit's program, with its folders below `root`."""
    needs.root("unshare", "setpriv", "mount")
    unit = settings()
    state, cache = root / f"var/lib/{unit['StateDirectory'][0]}", root / f"var/cache/{unit['CacheDirectory'][0]}"
    for folder in (state, cache):
        folder.mkdir(parents=True, exist_ok=True)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
    for path in ((root / "etc/pdm"), *(root / "etc/pdm").rglob("*")):
        os.chown(path, 0, NOBODY)  # the group may read it, as the installer has it for the unit's user
    environment = " ".join(unit["Environment"]).replace("/var/lib/", f"{root}/var/lib/")
    interpreter = Path(sys.base_prefix)
    closed = [p for p in reversed(interpreter.parents) if not p.stat().st_mode & 0o001]
    script = SANDBOX.format(
        hidden=closed[0] if closed else "",
        interpreter=interpreter,
        writable=f"{state} {cache}",
        user=NOBODY,
        environment=environment.replace("/var/cache/", f"{root}/var/cache/"),
    )
    _, *words = shlex.split(unit["ExecStart"][0])
    words = [word.replace("/etc/pdm", f"{root}/etc/pdm") for word in words]
    return ["unshare", "--mount", "sh", "-c", script, "sh", *agent, *words]
