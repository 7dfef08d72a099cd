"""A release on its way to run on this device: taken, checked, tried, kept or sent away. The rules are in `steps`."""

from edge_agent.rollout.machine import Rollout

__all__ = ["Rollout"]
