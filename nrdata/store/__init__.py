"""A data set at rest: triplets in shards, their index, the manifest, and opening it all."""
