"""For whoever looks after the device: is the configuration right, what is wrong, and what to do about it."""
