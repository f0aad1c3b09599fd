"""The verdict: does a file compute the same output as the PyTorch network?

It compares candidates with the reference in float64, applies the acceptance criteria and names
what a failure looks like. It may import ``precision`` and the packages before it.
"""
