"""The service: an HTTP API over collections, and the search page that it serves."""
