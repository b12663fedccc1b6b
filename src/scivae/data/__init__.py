"""What an AnnData or a file is to the model."""
