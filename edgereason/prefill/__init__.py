"""What is computed before decoding begins: sessions, the prefix cache, overlapped prefill."""
