"""What structures are: their place in an inclusion graph of anatomy, their names and codes."""
