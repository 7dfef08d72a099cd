"""A release on its way to run on this device: taken, checked, tried, kept or sent away. `steps` has the rules."""
