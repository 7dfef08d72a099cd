"""What both programs must agree on."""

import os

# onnxruntime's wheels for Linux report to their maker, and keep an id of the machine in the user's home. No byte leaves
# a plant that its owner has not asked for. The library reads this when it loads, so it is said before anybody loads it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
