"""The alarms of the fleet: what is done about them, which of them needs somebody first, and who is told again."""
