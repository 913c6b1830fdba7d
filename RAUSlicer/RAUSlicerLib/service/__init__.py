"""The worker process, its protocol, and the client that starts it."""
