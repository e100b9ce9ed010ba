"""Modulation transfer functions: slanted edge, circular edge (task transfer function), wire or bead.

All three end in a line or point spread function, a window, a Fourier transform and a division by what the method itself
blurs.  Frequencies are in cycles/mm.  One module each: `straight_edge`, `circular_edge`, `point`.
"""

from retrodict.metrics._resolution import Resolution, crossing
from retrodict.metrics.circular_edge import circular_edge_mtf
from retrodict.metrics.point import point_mtf
from retrodict.metrics.straight_edge import edge_mtf

__all__ = ["Resolution", "circular_edge_mtf", "crossing", "edge_mtf", "point_mtf"]
