"""From what lies on disk, or is drawn, to batches. NumPy only: no JAX, no TensorFlow."""
