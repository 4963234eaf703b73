"""Writers of bundles: native, GPTQ, ONNX and the shared layout."""
