"""The decoding loop: sampling, stops, prompt lookup, result forcing, continuous batching."""
