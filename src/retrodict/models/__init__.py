"""What a checkpoint holds: a denoiser with its units, and the instrument that it was made for."""
