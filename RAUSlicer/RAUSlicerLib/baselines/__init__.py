"""What a user would pick instead: copy, registration, SAM2 memory only."""
