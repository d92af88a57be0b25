"""One file a command: the only code that reads a config."""
