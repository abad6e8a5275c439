"""Multimodal models from scratch. Each module is collected from one lesson; see its header."""
