"""TensorBoard's images, texts, graph, hyper-parameters, curves and embeddings of a run."""
