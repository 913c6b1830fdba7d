"""The vision-language model and SAM 2: matched slices, queries, boxes, assignment, prompts, memory, propagation."""
