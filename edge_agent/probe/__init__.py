"""`edge-agent probe`: what a source offers, and a configuration to begin with. Reads only; a module for each source."""
