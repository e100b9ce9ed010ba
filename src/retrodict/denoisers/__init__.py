"""Denoisers: E[x_0 | x_t] and the law of its error; networks, mixtures and wrappers of other denoisers."""
