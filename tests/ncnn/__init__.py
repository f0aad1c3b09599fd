"""Tests of exports to ncnn."""
