"""How good each structure is, and whether the whole result is to be doubted."""
