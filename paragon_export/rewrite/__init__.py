"""Rewrites: a PyTorch module in, an equal module that runs faster out.

Each rewrite is an algebraic identity. It may import ``networks`` and the packages before it.
"""
