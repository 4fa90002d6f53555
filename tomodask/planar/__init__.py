"""2D multireference and reference-free alignment."""
