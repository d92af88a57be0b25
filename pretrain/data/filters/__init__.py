"""Quality rules: one family a file, each a stage that says why it dropped a document."""
