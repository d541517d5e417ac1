"""Published corpora, a module each: which files there are and what each one is."""
