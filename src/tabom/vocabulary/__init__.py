"""The one tiled reduction over the vocabulary, for training, diagnosis and decoding alike."""
