"""The embedded broker as a process of its own, run as a script: iotcore_process.py CONFIG."""

from __future__ import annotations

import logging
import sys

from iotcore.iotcore import IotCoreBroker


def main(config: str) -> int:
    logging.basicConfig(level="WARNING")
    logging.getLogger("rumqttd").setLevel(logging.CRITICAL)  # it logs every packet as an error
    IotCoreBroker(config_path=config).run_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
