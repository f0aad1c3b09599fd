"""Name what a failed candidate looks like: a shift, swapped channels, another weight.

The verdict does not depend on it. It may import ``parity`` and the packages before it.
"""
