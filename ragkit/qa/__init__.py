"""Questions and answers from passages: teachers, filters, splits and cost."""
