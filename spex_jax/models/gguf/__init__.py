"""Reads GGUF files, in which llama.cpp keeps a model, its settings and its tokenizer."""
