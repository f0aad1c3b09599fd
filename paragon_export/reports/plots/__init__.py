"""Plots in SVG: shapes and axes, and the plots of kernels, ranges, latencies and errors.

Modules here may import what the package of reports may import.
"""
