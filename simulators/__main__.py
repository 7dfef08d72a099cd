"""`python -m simulators demo | plant | technicians`"""

from __future__ import annotations

import argparse
import importlib
import sys

PARTS = {
    "demo": "the whole loop on this machine, with real processes",
    "plant": "pumps that send samples to a broker",
    "technicians": "people who annotate alarms",
}
MODULE = {"demo": "simulators.demo", "plant": "simulators.plant", "technicians": "simulators.technician"}


def main(argv: list[str]) -> int:
    """Only the chosen part is imported: a plant needs no database."""
    parser = argparse.ArgumentParser(prog="python -m simulators", description=__doc__)
    parts = parser.add_subparsers(required=True, metavar="PART")
    for name, text in PARTS.items():
        part = parts.add_parser(name, help=text, description=text)
        if name in argv[:1]:
            importlib.import_module(MODULE[name]).add_arguments(part)
    args = parser.parse_args(argv)
    return int(args.run(args))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
