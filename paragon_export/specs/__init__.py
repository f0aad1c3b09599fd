"""What a user asks for and what a network is, as frozen data that was checked.

Plans, sizes, profiles, tolerances and the description of a network. It may import ``system`` and
the packages before it.
"""
