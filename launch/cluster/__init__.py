"""Several workers of one run: who they are, how they are started and watched. Nothing here imports TensorFlow."""
