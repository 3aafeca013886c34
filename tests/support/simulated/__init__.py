"""The protocol under every fault at once: the real `step`, role table and journals; a simulated API, three hosts, two VMs.

`python -m simulated --seeds N` runs seeds 0 to N-1 on all cores; `--seed K` replays one and prints what happened.
"""
