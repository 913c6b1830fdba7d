"""Public language models and SAM2.1: import, compose, plan, prompts, download."""
