"""Documents, passages, examples: their schema, their files, and how text is cut into passages."""
