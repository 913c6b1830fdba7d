"""The vision-language localizer: presence, boxes and `<Seg>` queries from special tokens, and their joint assignment."""
