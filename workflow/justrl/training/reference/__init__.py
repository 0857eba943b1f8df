"""The reference engine: the whole recipe in one process, PyTorch and transformers."""
