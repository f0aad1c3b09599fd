"""The command line: parse, call one function, show the result.

It may import every other package.
"""
