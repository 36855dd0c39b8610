"""Frozen towers: pretrained encoders of pictures, sound and texts from transformers, whose embeddings are features."""
