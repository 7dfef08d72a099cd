"""What people do about alarms, on this device: actions, maintenance, and false alarms that stay quiet.

All of it is in the outbox's file, so that a deed, its effect and its record for the server are one step.
"""
