"""The unified model M = {E, C, B} of the paper: encoders, connector, language-model backbone with LoRA."""
