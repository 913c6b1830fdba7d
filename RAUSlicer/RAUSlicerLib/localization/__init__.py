"""Where is it: matching, the vision-language model, registration, joint assignment."""
