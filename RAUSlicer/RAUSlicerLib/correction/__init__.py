"""What a user changed of one structure, and how that changes the rest of it."""
