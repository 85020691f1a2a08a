"""Bias, measured by how likely a model finds sentences: a module for each set of data.

``preference.py`` says which of several a model prefers, ties shared; ``rank_test.py`` whether two samples differ.
"""
