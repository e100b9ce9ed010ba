"""Pure geometry of shapes: signed distances, closed meshes, marching cubes and files; knows nothing of diffusion."""
