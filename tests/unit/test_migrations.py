"""What two people who add a migration on one day must not do."""

from __future__ import annotations

from fleet_server.store.migrate import migrations


def test_every_migration_has_its_own_number_and_none_is_missing() -> None:
    assert [each.number for each in migrations()] == list(range(1, len(migrations()) + 1))
