"""Sources in, shards out: a module a source (`plan`, `sources`), and what they share."""
