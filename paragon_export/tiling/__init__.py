"""A picture in parts: how far pixels reach in a network, tiles that compute what the whole computes.

May import ``inputs``, ``runtimes``, ``graph`` and what these import.
"""
