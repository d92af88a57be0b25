"""Where progress and metrics go."""
