"""`python -m fleet_server`, the same as `fleet-server`."""

from fleet_server.cli import run

if __name__ == "__main__":
    run()
