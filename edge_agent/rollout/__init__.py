"""A release on its way to run on this device: taken, checked, tried, kept or sent away."""

from edge_agent.rollout.machine import FETCH_TRIES, STEPS, Event, Rollout, harm

__all__ = ["FETCH_TRIES", "STEPS", "Event", "Rollout", "harm"]
