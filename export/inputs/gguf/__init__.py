"""GGUF files as base models: configuration, tokenizer and weights as a Hugging Face directory has them."""
