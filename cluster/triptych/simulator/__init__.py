"""The cluster in one thread: the objects of `core` among modelled machines, links, clients and faults.

One seed is one run, event by event; see docs/simulator.md.
"""
