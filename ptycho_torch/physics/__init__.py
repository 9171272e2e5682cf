"""The textbook: pure functions on tensors, free of configuration, files and trainers."""
