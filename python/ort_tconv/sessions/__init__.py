"""onnxruntime's sessions, with the operator or with the execution provider."""
