"""The fault bench: tools that break things, oracles that say what was lost, and `make faults`, which measures it all.

| module | what for |
|---|---|
| gateway | one agent's folder and the agent as a process |
| ledger | the oracles: nothing lost, nothing twice, bounded, only approved models |
| power | a file system that loses what was not synced |
| network | loss, partition and bandwidth, in a network namespace |
| proxy | latency, half-open connections, RST, truncation, a broker that refuses |
| clock | another wall clock for one process |
| limits | full, failing and slow disks, memory, file descriptors, SIGSTOP |
| broken | programs broken on purpose: a test that passes with one proves nothing |
"""
