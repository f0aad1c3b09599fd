"""A PyTorch module in, a module that computes the same and runs faster out.

Each rewrite is an algebraic identity. It may import ``networks`` and the packages before it.
"""
