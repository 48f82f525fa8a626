"""The collection: a search engine in a directory."""
