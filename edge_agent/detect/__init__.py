"""Windows to features, scores, alarm episodes and what is sent of them.

One Pipeline an asset. Each model in use has a Judge for it: the bundle that runs, and during a trial the candidate, on
the same windows. An episode is open while either of them says so; one that only the candidate sees is marked `trial`.
"""

from edge_agent.detect.detector import Detector
from edge_agent.detect.pipeline import Pipeline

__all__ = ["Detector", "Pipeline"]
