"""Tokenizers, chat templates, the stages' prompts, and the calculator for what an answer writes."""
