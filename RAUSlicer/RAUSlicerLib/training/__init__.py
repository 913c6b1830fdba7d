"""How the embedded models were made, and how a site makes its own."""
