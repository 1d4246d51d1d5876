"""What knows nothing of models: text, the machine, the native libraries, other processes."""
