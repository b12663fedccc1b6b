"""From an AnnData or a file to minibatches, and from arrays to a generated AnnData."""
