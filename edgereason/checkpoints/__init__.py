"""Reading a model's files: safetensors, GGUF, GPTQ checkpoints and LoRA adapters, each read once and one way."""
