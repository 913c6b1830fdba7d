"""What every room may use: files, text, memory, parallel work, resources."""
